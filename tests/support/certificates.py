"""Certificates for tests, made by openssl when they are needed: an authority of their own, and what it signs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support import tools

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of one certificate and its key in PEM; `both` has them in one, as Kafka's brokers want them."""

    certificate: Path
    key: Path
    both: Path


class Authority:
    """Signs with a certificate that only those trust who are given `certificate`."""

    def __init__(self, home: Path, name: str) -> None:
        tools.need("openssl")
        home.mkdir(parents=True, exist_ok=True)
        self._home, self.certificate, self._key = home, home / f"{name}.pem", home / f"{name}.key"
        _openssl(
            "req", "-x509", *_KEY, "-keyout", str(self._key), "-out", str(self.certificate), "-subj", f"/CN={name}",
            "-days", "2",
        )  # fmt: skip

    def sign(self, name: str, names: str, days: int = 2) -> Pair:
        """A certificate for `name`, valid for `names` as in subjectAltName; with negative `days` it has expired."""
        request, certificate, key = (self._home / f"{name}.{kind}" for kind in ("csr", "crt", "pem"))
        _openssl("req", "-new", *_KEY, "-keyout", str(key), "-out", str(request), "-subj", f"/CN={name}")
        extensions = self._home / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n")
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key),
            "-CAcreateserial", "-days", str(days), "-extfile", str(extensions), "-out", str(certificate),
        )  # fmt: skip
        both = self._home / f"{name}.both"
        both.write_text(key.read_text() + certificate.read_text())
        return Pair(certificate, key, both)


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr}")
