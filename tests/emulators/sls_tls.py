"""A certification authority of the emulator's own and a certificate for every name it may be called by."""

from __future__ import annotations

import ssl
import subprocess
import tempfile
from pathlib import Path

NAMES = (
    "IP:127.0.0.1,IP:127.0.0.2,IP:::1,DNS:localhost,DNS:*.localhost,DNS:*.127.0.0.1,"
    "DNS:*.log.aliyuncs.com,DNS:*.cn-hangzhou.log.aliyuncs.com,DNS:*.sls.test,DNS:sls.test"
)


class Authority:
    """`ca_file` is what a client must trust."""

    def __init__(self, names: str = NAMES) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="emulator-tls-")
        self._path = Path(self._directory.name)
        self.ca_file = self._path / "ca.pem"
        self._make(names)

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._path, check=True, capture_output=True, timeout=60)

    def _make(self, names: str) -> None:
        new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        usage = "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"
        extra = [word for one in usage for word in ("-addext", one)]
        self._openssl(
            *new, "-x509", "-days", "30", "-subj", "/CN=emulator CA", *extra, "-keyout", "ca.key", "-out", "ca.pem"
        )
        self._openssl(*new, "-subj", "/CN=emulator", "-keyout", "server.key", "-out", "server.csr")
        (self._path / "extensions").write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
        signing = (
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "30",
        )
        self._openssl(*signing, "-extfile", "extensions", "-out", "server.pem")

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._path / "server.pem", self._path / "server.key")
        return context

    def close(self) -> None:
        self._directory.cleanup()
