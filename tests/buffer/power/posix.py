"""The worst that POSIX allows after a power cut, from a trace of system calls.

Real file systems are kinder than the standard: ext4, xfs and btrfs carry a new name along with the file's fsync. This
model does not: data reach the disk by fsync of the file only, names by fsync of the directory only, and what was not
flushed survives in any combination. It alone finds a missing fsync of a directory.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat,open,creat,mkdir,mkdirat,write,sendfile,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate,"
    "fsync,fdatasync,unlink,unlinkat,rename,renameat,renameat2,rmdir"
)
_LINE = re.compile(r"^(\d+) +(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?.*$")
_FD = re.compile(r"^(-?\d+|AT_FDCWD)<(.*?)>(?=,|$)")
_FD_ANYWHERE = re.compile(r"(?:^|, )(\d+)<(.*?)>(?=,|$)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(slots=True)
class Node:
    """A file or a directory: what is surely on disk, and what may be."""

    directory: bool
    data: bytearray = field(default_factory=bytearray)
    entries: dict[str, Node] = field(default_factory=dict)
    pending: list[Operation] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that may or may not have reached the disk."""

    kind: str
    """add, remove, rename (of an entry); write, truncate, extend (of data)."""
    name: str = ""
    to: str = ""
    node: Node | None = None
    at: int = 0
    """An offset, or the new size."""
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Call:
    """One finished system call."""

    name: str
    arguments: str
    result: int
    path: str


def trace(command: list[str], out: Path, timeout: float = 120) -> list[Call]:
    """Run under strace; the calls in order of completion."""
    subprocess.run(
        ["strace", "-f", "-y", "-xx", "-s", "4000000", "-e", f"trace={CALLS}", "-o", str(out), *command],
        check=True, timeout=timeout, capture_output=True,
    )  # fmt: skip
    return list(_calls(out.read_text()))


def _calls(text: str) -> Iterator[Call]:
    open_calls: dict[str, str] = {}
    for line in text.splitlines():
        matched = _LINE.match(line)
        if not matched:
            continue
        thread, what = matched.groups()
        if what.endswith("<unfinished ...>"):
            open_calls[thread] = what.removesuffix("<unfinished ...>").rstrip()
            continue
        if what.startswith("<... "):
            what = open_calls.pop(thread, "") + what.split("resumed>", 1)[1]
        call = _CALL.match(what)
        if call and int(call[3]) >= 0:
            yield Call(call[1], call[2], int(call[3]), _plain(call[4] or ""))


def _plain(text: str) -> str:
    if "\\x" in text:
        text = bytes.fromhex(text.replace("\\x", "")).decode()
    return text.removesuffix(" (deleted)")


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


class Disk:
    """The tree below `root`, fed with calls."""

    def __init__(self, root: Path, marks: Path) -> None:
        self.root, self._marks_path = str(root), str(marks)
        self.top = Node(directory=True)
        self.marks: list[str] = []
        self._live: dict[str, Node] = {self.root: self.top}
        self._at: dict[str, int] = {}

    def feed(self, call: Call) -> None:
        """Account for one call."""
        handler = getattr(self, f"_do_{call.name}", None)
        if handler:
            handler(call)

    def _fd_path(self, call: Call) -> str:
        matched = _FD.match(call.arguments)
        return _plain(matched[2]) if matched else ""

    def _named(self, call: Call) -> list[str]:
        """The absolute paths that the call's string arguments name."""
        folder = self._fd_path(call)
        names = [_bytes(s).decode() for s in _STRING.findall(call.arguments)]
        return [n if n.startswith("/") else f"{folder}/{n}" for n in names]

    def _add(self, path: str, node: Node) -> None:
        parent, _, name = path.rpartition("/")
        if parent in self._live:
            self._live[path] = node
            self._live[parent].pending.append(Operation("add", name, node=node))

    def _do_openat(self, call: Call) -> None:
        path = call.path
        if "O_CREAT" in call.arguments and path not in self._live:
            self._add(path, Node(directory=False))
        if "O_TRUNC" in call.arguments and path in self._live:
            self._live[path].pending.append(Operation("truncate"))
        if path in self._live:
            self._at[path] = 0

    def _do_mkdir(self, call: Call) -> None:
        self._add(self._named(call)[0], Node(directory=True))

    _do_mkdirat = _do_mkdir

    def _do_write(self, call: Call) -> None:
        path = self._fd_path(call)
        data = b"".join(_bytes(s) for s in _STRING.findall(call.arguments))[: call.result]
        if path == self._marks_path:
            self.marks.extend(data.decode().splitlines())
        elif path in self._live:
            at = self._at.get(path, 0)
            self._live[path].pending.append(Operation("write", at=at, data=data))
            self._at[path] = at + len(data)

    _do_writev = _do_write

    def _do_sendfile(self, call: Call) -> None:
        into, out_of = (_plain(path) for _, path in _FD_ANYWHERE.findall(call.arguments)[:2])
        if into in self._live and out_of in self._live:
            source = Node(False, bytearray(self._live[out_of].data))
            for operation in self._live[out_of].pending:
                apply(source, operation)
            begin, at = self._at.get(out_of, 0), self._at.get(into, 0)
            data = bytes(source.data[begin : begin + call.result])
            self._live[into].pending.append(Operation("write", at=at, data=data))
            self._at[out_of], self._at[into] = begin + call.result, at + call.result

    def _do_pwrite64(self, call: Call) -> None:
        path = self._fd_path(call)
        data = b"".join(_bytes(s) for s in _STRING.findall(call.arguments))[: call.result]
        if path == self._marks_path:
            self.marks.extend(data.decode().splitlines())
        elif path in self._live:
            self._live[path].pending.append(Operation("write", at=int(call.arguments.rsplit(",", 1)[1]), data=data))

    _do_pwritev = _do_pwritev2 = _do_pwrite64

    def _do_ftruncate(self, call: Call) -> None:
        path = self._fd_path(call)
        if path in self._live:
            self._live[path].pending.append(Operation("truncate", at=int(call.arguments.rsplit(",", 1)[1])))

    def _do_fallocate(self, call: Call) -> None:
        path = self._fd_path(call)
        if path in self._live and "KEEP_SIZE" not in call.arguments:
            offset, length = map(int, call.arguments.rsplit(",", 2)[1:])
            self._live[path].pending.append(Operation("extend", at=offset + length))

    def _do_fsync(self, call: Call) -> None:
        node = self._live.get(self._fd_path(call))
        if node:
            for operation in node.pending:
                apply(node, operation)
            node.pending.clear()

    _do_fdatasync = _do_fsync

    def _do_unlink(self, call: Call) -> None:
        self._remove(self._named(call)[0])

    _do_unlinkat = _do_rmdir = _do_unlink

    def _remove(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        if self._live.pop(path, None) is not None and parent in self._live:
            self._live[parent].pending.append(Operation("remove", name))

    def _do_rename(self, call: Call) -> None:
        old, new = self._named(call)[:2]
        if old not in self._live:
            return
        moved = {p: n for p, n in self._live.items() if p == old or p.startswith(old + "/")}
        node = moved[old]
        old_parent, _, old_name = old.rpartition("/")
        new_parent, _, new_name = new.rpartition("/")
        if old_parent == new_parent:
            self._live[old_parent].pending.append(Operation("rename", old_name, new_name, node))
        else:
            self._live[old_parent].pending.append(Operation("remove", old_name))
            self._live[new_parent].pending.append(Operation("add", new_name, node=node))
        for path, below in moved.items():
            del self._live[path]
            self._live[new + path[len(old) :]] = below

    _do_renameat = _do_renameat2 = _do_rename

    def crash(self, where: Path, fate: str, chance: random.Random) -> None:
        """Write one legal state under `where`."""
        where.mkdir()
        _materialise(self.top, where, fate, chance)


def apply(node: Node, operation: Operation) -> None:
    """Let one pending operation reach the disk."""
    match operation.kind:
        case "add" if operation.node:
            node.entries[operation.name] = operation.node
        case "remove":
            node.entries.pop(operation.name, None)
        case "rename" if operation.node:
            node.entries.pop(operation.name, None)
            node.entries[operation.to] = operation.node
        case "write":
            _extend(node, operation.at)
            node.data[operation.at : operation.at + len(operation.data)] = operation.data
        case "truncate":
            del node.data[operation.at :]
            _extend(node, operation.at)
        case "extend":
            _extend(node, operation.at)


def _extend(node: Node, size: int) -> None:
    node.data.extend(bytes(max(0, size - len(node.data))))


def _materialise(node: Node, where: Path, fate: str, chance: random.Random) -> None:
    kept = [o for o in node.pending if fate == "all" or (fate == "some" and chance.random() < 0.5)]
    state = Node(node.directory, bytearray(node.data), dict(node.entries))
    for operation in kept:
        apply(state, operation)
    if not node.directory:
        where.write_bytes(state.data)
        return
    where.mkdir(exist_ok=True, mode=0o700)
    where.chmod(0o700)
    for name, below in state.entries.items():
        _materialise(below, where / name, fate, chance)
