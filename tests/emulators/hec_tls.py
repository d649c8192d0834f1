"""Certificates for the HEC emulator and its clients: a CA, servers good and bad, client certificates; all may change live."""

from __future__ import annotations

import ssl
import subprocess
import tempfile
from pathlib import Path

NAMES = "IP:127.0.0.1,DNS:localhost"
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class HecAuthority:
    """A CA of its own. `ca_file` is what a client must trust; `use` changes the server's certificate at once."""

    def __init__(self, *, client_ca: Path | None = None) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="hec-tls-")
        self.path = Path(self._directory.name)
        self.ca_file = self.path / "ca.pem"
        self.client_ca = client_ca
        """Whose client certificates the server wants; None: none."""
        self._openssl(
            "req", "-x509", "-days", "30", "-subj", "/CN=HEC emulator CA", *KEY, "-keyout", "ca.key", "-out", "ca.pem",
            "-addext", "basicConstraints=critical,CA:TRUE",
        )  # fmt: skip
        self._server = self.issue("server")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.path, check=True, capture_output=True, timeout=60)

    def issue(self, name: str, *, days: int = 30, names: str = NAMES, usage: str = "serverAuth") -> tuple[Path, Path]:
        """Certificate and key; with -1 days it has ended already."""
        self._openssl("req", "-subj", f"/CN={name}", *KEY, "-keyout", f"{name}.key", "-new", "-out", f"{name}.csr")
        (self.path / f"{name}.ext").write_text(f"subjectAltName={names}\nextendedKeyUsage={usage}\n")
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", str(days), "-extfile", f"{name}.ext", "-out", f"{name}.pem",
        )  # fmt: skip
        return self.path / f"{name}.pem", self.path / f"{name}.key"

    def use(self, certificate: Path, key: Path) -> None:
        """The server shows this one from the next connection on."""
        self._server = certificate, key

    def context(self) -> ssl.SSLContext:
        """Made anew for each connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._server)
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.client_ca)
        return context

    def close(self) -> None:
        """Remove all of it."""
        self._directory.cleanup()
