"""A real systemd as the first process of namespaces of its own, over a throw-away copy of this machine's files.

The network is this machine's, so that emulators can be reached. Nothing outside is changed: what is written goes to a
tmpfs, kernel settings are read-only, devices are a handful, cgroups lie below one of ours. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.waiting import poll

#: What would reach for the kernel's own state, or serves nobody here.
MASKED = (
    "systemd-sysctl.service", "systemd-binfmt.service", "systemd-modules-load.service", "systemd-remount-fs.service",
    "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-update-utmp.service", "systemd-journal-flush.service",
    "systemd-tmpfiles-setup-dev.service", "systemd-firstboot.service", "systemd-random-seed.service", "tmp.mount",
    "proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "dev-hugepages.mount", "dev-mqueue.mount",
    "kmod-static-nodes.service", "systemd-journald-audit.socket",
)  # fmt: skip
CGROUP = Path("/sys/fs/cgroup")
CHECKOUT = Path(__file__).resolve().parents[1]
#: In the new namespaces, before systemd takes over.
BOOT = r"""
set -eu
root=$1
mount --make-rslave / # an umount out there is heard of, or it would hold on to other tests' disks
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
for each in run tmp dev; do mount -t tmpfs -o mode=0755 tmpfs "$root/$each"; done
chmod 1777 "$root/tmp"
# The checkout may lie below /tmp, or on a file system of its own, which the copy of / has not.
mkdir -p "$root/$2"
mount --bind "$2" "$root/$2"
mount -o remount,bind,ro "$root/$2"
for each in null zero full random urandom tty; do touch "$root/dev/$each"; mount --bind "/dev/$each" "$root/dev/$each"; done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs -o mode=0755 tmpfs "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
    for each in memory pids; do
        mkdir "$root/sys/fs/cgroup/$each"
        mount -t cgroup -o "$each" cgroup "$root/sys/fs/cgroup/$each"
    done
fi
mount --make-rshared "$root"
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
    chroot "$root" /lib/systemd/systemd --system --unit=house.target --log-target=journal --show-status=false
"""


class CannotBoot(Exception):
    """This machine does not allow it; says why."""


class Machine:
    """Boots on entering; gone without a trace on leaving."""

    def __init__(self) -> None:
        if os.geteuid():
            raise CannotBoot("needs root")
        if not Path("/lib/systemd/systemd").exists() or not shutil.which("unshare") or not shutil.which("nsenter"):
            raise CannotBoot("needs systemd and util-linux")

    def __enter__(self) -> Self:
        self._work = Path(tempfile.mkdtemp(prefix="sls-siem-machine-"))
        self.root = self._work / "root"
        self._cgroups = [one / self._work.name for one in _hierarchies()]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._mount()
            self._boot()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _mount(self) -> None:
        self._do("mount", "-t", "tmpfs", "-o", "size=3g", "tmpfs", str(self._work))
        for name in ("upper", "work", "root"):
            (self._work / name).mkdir()
        layers = f"lowerdir=/,upperdir={self._work}/upper,workdir={self._work}/work"
        self._do("mount", "-t", "overlay", "-o", layers, "overlay", str(self.root))
        units = self.root / "etc/systemd/system"
        units.mkdir(parents=True, exist_ok=True)
        for wants in units.glob("*.wants"):
            shutil.rmtree(wants)
        for name in MASKED:
            (units / name).unlink(missing_ok=True)
            (units / name).symlink_to("/dev/null")
        (units / "house.target").write_text("[Unit]\nDescription=A machine for tests\nAllowIsolate=yes\n")

    def _boot(self) -> None:
        for one in self._cgroups:
            one.mkdir()
        enter = " ".join(f"echo $$ > {one}/cgroup.procs;" for one in self._cgroups)
        with (self._work / "console").open("wb") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", f'{enter} exec unshare --mount --pid --ipc --uts --cgroup --fork --kill-child sh -c "$0" sh "$1" "$2"',
                 BOOT, str(self.root), str(CHECKOUT)],
                stdout=console, stderr=console, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        poll(
            lambda: self._is_up() or self._process is None or self._process.poll() is not None, "systemd is up", 60, 0.1
        )
        if not self._is_up():
            raise CannotBoot((self._work / "console").read_text()[-600:])

    def _is_up(self) -> bool:
        try:
            return self.run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}
        except CannotBoot:
            return False

    @property
    def _first(self) -> int:
        """systemd's own pid, out here."""
        assert self._process is not None
        with contextlib.suppress(OSError, IndexError):
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            if Path(f"/proc/{children[0]}/comm").read_text().strip() == "systemd":
                return int(children[0])
        raise CannotBoot("systemd has not begun")

    def run(self, *command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A command inside."""
        inside = [
            "nsenter",
            f"--target={self._first}",
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--cgroup",
            "--root",
            "--wdns=/",
        ]
        clean = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_PAGER": ""}
        kept = {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
        return subprocess.run(
            [*inside, *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=clean | kept,
            start_new_session=True,  # what goes wrong in there signals nobody out here
        )

    def do(self, *command: str, timeout: float = 120) -> str:
        """It must succeed; its output."""
        done = self.run(*command, timeout=timeout)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def path(self, inside: str) -> Path:
        """Of a file inside that is not on a tmpfs of its own."""
        return self.root / inside.lstrip("/")

    def _do(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise CannotBoot(f"{' '.join(command[:3])}: {done.stderr.strip()}")

    def _remove(self) -> None:
        if self._process is not None:
            with contextlib.suppress(CannotBoot, ProcessLookupError):
                os.kill(self._first, signal.SIGKILL)  # the first of a pid namespace takes all others with it
            self._process.wait(timeout=60)
        for one in self._cgroups:
            for folder, _, _ in os.walk(one, topdown=False):
                poll(lambda path=folder: _is_removed(Path(path)), f"{folder} is empty", 30)  # type: ignore[misc]
        for mounted in (self.root, self._work):
            subprocess.run(["umount", "-l", str(mounted)], capture_output=True, check=False)
        shutil.rmtree(self._work, ignore_errors=True)


def _is_removed(cgroup: Path) -> bool:
    with contextlib.suppress(OSError):
        cgroup.rmdir()
    return not cgroup.exists()


def _hierarchies() -> list[Path]:
    if (CGROUP / "cgroup.controllers").exists():
        return [CGROUP]
    return [one for one in (CGROUP / "memory", CGROUP / "pids", CGROUP / "systemd", CGROUP / "unified") if one.is_dir()]
