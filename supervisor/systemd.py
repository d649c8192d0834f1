"""systemd's notify protocol: one datagram to $NOTIFY_SOCKET. By hand: it is six lines and no dependency."""

from __future__ import annotations

import errno
import os
import socket

#: What passes, with somebody there.
PASSING = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Notifier:
    """Silent where there is no systemd. The variable is taken out of the environment, so that no child sends."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")

    def send(self, *lines: str) -> bool:
        """READY=1, STATUS=…, WATCHDOG=1, STOPPING=1, EXTEND_TIMEOUT_USEC=…

        False: to be said again. A systemd that stands still (a dead mount, a reload) has a full queue after seconds, and whoever
        waited for it would stand still too; a machine may be out of descriptors or memory for a moment. Where nobody is at the
        address, nobody wants to know.
        """
        if not self._address:
            return True
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with socket.socket(socket.AF_UNIX, kind) as out:
                out.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            return error.errno not in PASSING
        return True
