"""How to speak to a Kafka cluster that asks who we are: the `[kafka]` table of a configuration, and where secrets lie.

Secrets are read from files, when a connection is made and at no other time: never from arguments or the environment,
which other processes can see.  So a password or certificate that is replaced is taken up by the next connection.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import errors

MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
"""Of SASL, best first.  Kerberos and OAuth are not here: they need more than a file."""
_CREDENTIALS = "$CREDENTIALS_DIRECTORY/"
"""Begins the path of a systemd credential.  Looked up at connect: outside of its unit there is no such directory, and
commands that only look must be able to read the configuration there."""
_KINDS: Mapping[str, type] = {
    "tls": bool, "ca": str, "certificate": str, "key": str,
    "sasl": str, "username": str, "password_file": str, "password_credential": str,
}  # fmt: skip
_NEEDS = (
    ("ca", "tls", "a CA is of no use without TLS: set tls = true"),
    ("certificate", "tls", "a certificate is of no use without TLS: set tls = true"),
    ("certificate", "key", "set key too, to the file of its private key"),
    ("key", "certificate", "set certificate too, to the file of the certificate that it belongs to"),
    ("sasl", "username", "set username too"),
    ("username", "sasl", f"set sasl too, to one of {', '.join(MECHANISMS)}"),
    ("password_file", "sasl", f"set sasl too, to one of {', '.join(MECHANISMS)}"),
    ("password_credential", "sasl", f"set sasl too, to one of {', '.join(MECHANISMS)}"),
)


class Misset(errors.Usage):
    """One key of the table is not as it must be.  The message begins with the key; `key` is for who knows its line."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(f"{key}: {words}")
        self.key = key


@dataclass(frozen=True, slots=True)
class Security:
    """Paths and names, no secret.  Without `ca_file` the CAs of the system count; `mechanism` is SASL's, or empty."""

    tls: bool = False
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    mechanism: str = ""
    username: str = ""
    password_file: str = ""

    @property
    def principal(self) -> str:
        """Who we are to the rights of a cluster, as far as we can know: its own rules may map a certificate's name."""
        if self.mechanism:
            return f"User:{self.username}"
        if self.certificate_file:
            return f"the user of certificate {self.certificate_file}"
        return "User:ANONYMOUS"

    def password(self) -> str:
        """Read it.  Raises NotFound, Usage, and Unsafe for a file that others can read."""
        try:
            given = read(self.password_file, 0o077).decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as why:
            raise errors.Usage(f"{self.password_file}: is not text in UTF-8") from why
        if not given:
            raise errors.Usage(f"{self.password_file}: holds no password")
        return given


PLAIN = Security()
"""No TLS and no user."""


def parse(table: Mapping[str, object]) -> Security:
    """The table `[kafka]`.  Raises Misset for what is unknown, of the wrong type, or given without its other half."""
    for key, value in table.items():
        _check(key, value)
    for key, other, words in _NEEDS:
        if table.get(key) and not table.get(other):
            raise Misset(key, words)
    ca, certificate, key, sasl, username = (
        str(table.get(name, "")) for name in ("ca", "certificate", "key", "sasl", "username")
    )
    return Security(bool(table.get("tls", False)), ca, certificate, key, sasl, username, _password(table))


def _check(key: str, value: object) -> None:
    kind = _KINDS.get(key)
    if kind is None:
        raise Misset(key, f"is not known; [kafka] has {', '.join(_KINDS)}")
    if type(value) is not kind:
        raise Misset(key, "must be true or false" if kind is bool else f"must be a string, not {value!r}")
    if value == "":
        raise Misset(key, "is empty; leave it out")
    if key == "sasl" and value not in MECHANISMS:
        raise Misset(key, f"{value!r} is not one of {', '.join(MECHANISMS)}")


def _password(table: Mapping[str, object]) -> str:
    path, credential = str(table.get("password_file", "")), str(table.get("password_credential", ""))
    if path and credential:
        raise Misset("password_credential", "give either this or password_file")
    if table.get("sasl") and not (path or credential):
        raise Misset("sasl", "set password_file or password_credential too")
    if "/" in credential or credential in (".", ".."):
        raise Misset("password_credential", f"{credential!r} is a name as in LoadCredential=NAME:PATH, not a path")
    return _CREDENTIALS + credential if credential else path


def read(path: str, forbidden: int = 0) -> bytes:
    """The content of a file whose mode has none of the bits `forbidden`.  Raises NotFound, Usage, Unsafe."""
    name = path.removeprefix(_CREDENTIALS)
    place = _credential(name) if name != path else Path(path)
    try:
        with open(place, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            # systemd lets the user of the unit in by an ACL, which shows as a bit of the group; nobody else comes in.
            if mode & forbidden and name == path:
                raise errors.Unsafe(
                    f"{path} can be read by others (mode {mode:04o}): chmod {mode & ~forbidden:04o} {path}"
                )
            return file.read()
    except FileNotFoundError as why:
        raise errors.NotFound(f"{place}: there is no such file") from why
    except OSError as why:
        raise errors.Usage(f"{place}: {why.strerror}") from why


def _credential(name: str) -> Path:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise errors.Usage(
            f"password_credential: $CREDENTIALS_DIRECTORY is not set, so credential {name!r} is not here: run it by"
            f" systemd with LoadCredential={name}:PATH in its unit, or set password_file instead"
        )
    return Path(directory, name)
