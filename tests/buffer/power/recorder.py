"""A disk that remembers every write and every flush in order, as a FUSE file under a loop device.

    python -m tests.buffer.power.recorder MOUNTPOINT BYTES LOG [N]

serves `disk` (the block device's content) and `marks` (each write to it is one line of the workload's: `acked 7`). The
log interleaves them, so that "acknowledged before this write" is exact. Record: kind `W`, `F` or `M`, 8 bytes offset,
4 bytes length, data. With N, the n-th write after the mark `begins` fails with EIO and never reaches the disk.
"""

from __future__ import annotations

import errno
import mmap
import stat
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORD = struct.Struct("<cQI")


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened to the disk."""

    kind: str
    offset: int
    data: bytes


def read_log(path: Path) -> Iterator[Record]:
    """The records in the order in which they completed."""
    with path.open("rb") as file:
        while len(head := file.read(RECORD.size)) == RECORD.size:
            kind, offset, length = RECORD.unpack(head)
            yield Record(kind.decode(), offset, file.read(length))


def serve(mountpoint: str, size: int, log: Path, failing: int = 0) -> None:
    """Mount, and serve until unmounted."""
    import mfusepy

    disk = mmap.mmap(-1, size)
    out = log.open("wb", buffering=0)

    left, end, failed = [1 << 60], [-1], list[int]()

    def record(kind: bytes, offset: int, data: bytes) -> None:
        out.write(RECORD.pack(kind, offset, len(data)) + data)

    class Recorder(mfusepy.Operations):  # type: ignore[misc]
        """Two files, no directories, no permissions: only order matters."""

        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            del fh
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            if path in {"/disk", "/marks"}:
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": size if path == "/disk" else 0}
            raise mfusepy.FuseOSError(errno.ENOENT)

        def readdir(self, path: str, fh: int) -> list[str]:
            del path, fh
            return [".", "..", "disk", "marks"]

        def read(self, path: str, length: int, offset: int, fh: int) -> bytes:
            del fh
            return disk[offset : offset + length] if path == "/disk" else b""

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            del fh
            if path == "/disk":
                left[0] -= 1
                # The second half of a request of the loop device's would be a short write, which it takes for a whole one.
                if left[0] <= 0 < failing and offset != end[0] and not failed:
                    failed.append(offset)
                    record(b"E", offset, b"")
                    raise mfusepy.FuseOSError(errno.EIO)
                end[0] = offset + len(data)
                disk[offset : offset + len(data)] = data
                record(b"W", offset, data)
            else:
                if data == b"begins\n":
                    left[0] = failing
                record(b"M", 0, data)
            return len(data)

        def truncate(self, path: str, length: int, fh: int | None = None) -> None:
            """The size is fixed."""

        def fsync(self, path: str, datasync: int, fh: int) -> int:
            del datasync, fh
            if path == "/disk":
                record(b"F", 0, b"")
            return 0

    mfusepy.FUSE(Recorder(), mountpoint, foreground=True, nothreads=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 0)
