"""What every client of a bus is made with: the brokers' addresses, TLS, and a user.  Read anew for each client."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

from engine import errors
from engine.bus import security
from engine.bus.security import Security

REQUEST_MS = 10_000
"""Milliseconds until one request to one broker is given up, and another broker asked."""


class Access:
    """The way to one cluster.  Nothing that it keeps is secret."""

    def __init__(self, servers: Sequence[str], given: Security) -> None:
        self.servers, self.security = tuple(servers), given
        self.check_wire(self.servers)

    def options(self) -> dict[str, Any]:
        """For a client of aiokafka.  Raises NotFound, Usage and Unsafe, for files."""
        return {"bootstrap_servers": list(self.servers), "request_timeout_ms": REQUEST_MS, **self.proof()}

    def proof(self) -> dict[str, Any]:
        """The part of `options` that a single connection takes, too."""
        given = self.security
        protocol = ("SASL_" if given.mechanism else "") + ("SSL" if given.tls else "PLAINTEXT")
        found: dict[str, Any] = {"security_protocol": protocol, "ssl_context": self.context()}
        if given.mechanism:
            found |= {
                "sasl_mechanism": given.mechanism,
                "sasl_plain_username": given.username,
                "sasl_plain_password": given.password(),
            }
        return found

    def context(self) -> ssl.SSLContext | None:
        """TLS 1.3 with the broker's certificate and name verified; None without TLS."""
        given = self.security
        if not given.tls:
            return None
        # Not ssl.create_default_context: it writes the keys of sessions to the file of $SSLKEYLOGFILE.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if given.ca_file:
            security.read(given.ca_file)  # says which file is not there, which OpenSSL does not
            try:
                context.load_verify_locations(given.ca_file)
            except ssl.SSLError as why:
                raise errors.Usage(f"ca: {given.ca_file} holds no certificate in PEM ({why})") from why
        else:
            context.load_default_certs()
        if given.certificate_file:
            _load(context, given)
        return context

    def check_wire(self, servers: Iterable[str]) -> None:
        """Raises Unsafe when a password would leave this machine in the clear."""
        given = self.security
        if given.tls or not given.mechanism:
            return
        for server in servers:
            if not _loopback(split(server)[0]):
                raise errors.Unsafe(
                    f"{server} is not this machine, and without TLS the password of {given.principal} or its proof, and"
                    " all content of disks, could be read on the way: set tls = true in [kafka], and ca where the"
                    " cluster has a CA of its own"
                )


def split(server: str) -> tuple[str, int]:
    """Host and port, an IPv6 address without its brackets."""
    host, _, port = server.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _load(context: ssl.SSLContext, given: Security) -> None:
    security.read(given.certificate_file)
    security.read(given.key_file, 0o007)  # a group such as Debian's ssl-cert may read it
    try:
        context.load_cert_chain(given.certificate_file, given.key_file, _no_passphrase)
    except ssl.SSLError as why:
        raise errors.Usage(
            f"certificate: {given.certificate_file} and {given.key_file} are no certificate and its key in PEM ({why})"
        ) from why


def _no_passphrase() -> str:
    """OpenSSL would ask the terminal, and a daemon would hang."""
    raise errors.Usage("key: it is encrypted, and nobody is here to type its passphrase: store it decrypted, mode 0600")
