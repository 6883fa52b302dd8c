"""One real broker as companies run them: TLS, users, certificates, rights; and beside them listeners that are wrong.

Its PLAINTEXT listener is the administrator's: who comes in there may do everything.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.bus.security import Security
from tests.support import kafka
from tests.support.certificates import Authority, Pair

USERS = {"vmferry-source": "to ship", "vmferry-target": "to apply", "vmferry-auditor": "to look", "stranger": "nothing"}
_HERE = "DNS:localhost,IP:127.0.0.1"
_MODULES = {
    "scram-sha-512": "scram.ScramLoginModule required;",
    "scram-sha-256": "scram.ScramLoginModule required;",
    "plain": 'plain.PlainLoginModule required user_vmferry-source="to ship";',
}
_KINDS = {
    "SASL_SSL": "SASL_SSL", "OTHERS": "SASL_SSL", "MTLS": "SSL", "SASL_PLAINTEXT": "SASL_PLAINTEXT",
    "EXPIRED": "SSL", "NAMED": "SSL", "OLD": "SSL", "ASTRAY": "SSL", "FAR": "SASL_PLAINTEXT",
}  # fmt: skip
"""OTHERS has the mechanisms that are not SCRAM-SHA-512, which SASL_SSL has.  EXPIRED has a certificate of yesterday,
NAMED one of another host, OLD only TLS 1.2.  ASTRAY and FAR answer, and then send clients to an address that its
certificate is not for, and to another machine."""


@dataclass(frozen=True, slots=True)
class Secured:
    """The broker, the address of each listener, and the files of those who come to it."""

    cluster: kafka.Cluster
    listeners: dict[str, str]
    authority: Authority
    stranger: Authority
    home: Path

    def user(self, name: str, password: str = "", tls: bool = True) -> Security:
        """By SCRAM, with the right password unless another is given."""
        path = self.home / f"{name}.password"
        path.touch(0o600)
        path.write_text((password or USERS[name]) + "\n")
        ca = str(self.authority.certificate) if tls else ""
        return Security(tls, ca, mechanism="SCRAM-SHA-512", username=name, password_file=str(path))

    def certified(self, pair: Pair | None) -> Security:
        """By a certificate."""
        ca = str(self.authority.certificate)
        return Security(True, ca, str(pair.certificate), str(pair.key)) if pair else Security(True, ca)

    def run(self, command: str) -> str:
        """A command as `vmferry topics` prints it, by the class that its script would start.  Gives what it prints."""
        tool, *arguments = shlex.split(command)
        kind = {"kafka-acls.sh": "AclCommand", "kafka-topics.sh": "TopicCommand"}[tool]
        words = kafka.java(self.home, "-XX:TieredStopAtLevel=1", f"org.apache.kafka.tools.{kind}", *arguments)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextlib.contextmanager
def running(home: Path) -> Iterator[Secured]:
    """Started, and killed at the end."""
    ours, stranger = Authority(home / "ours", "authority"), Authority(home / "strange", "stranger")
    ports = {name: kafka.free_port() for name in _KINDS}
    listeners = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    advertised = listeners | {"FAR": "kafka.example:9092", "ASTRAY": f"localhost:{ports['ASTRAY']}"}
    settings = {
        "listeners": _listed(listeners),
        "advertised.listeners": _listed(advertised),
        "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in _KINDS.items()),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.others.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
        "num.network.threads": "1",
        **_tls(home, ours),
    }
    for name, kind in _KINDS.items():
        for mechanism, module in _MODULES.items() if kind.startswith("SASL") else ():
            jaas = f"org.apache.kafka.common.security.{module}"
            settings[f"listener.name.{name.lower()}.{mechanism}.sasl.jaas.config"] = jaas
    users = [
        f"{mechanism}=[name={name},password={password}]"
        for name, password in USERS.items()
        for mechanism in ("SCRAM-SHA-512", "SCRAM-SHA-256")
    ]
    with kafka.running(home / "cluster", 1, settings, users) as cluster:
        yield Secured(cluster, listeners, ours, stranger, home)


def _listed(addresses: dict[str, str]) -> str:
    return ",".join(f"{name}://{address}" for name, address in addresses.items())


def _tls(home: Path, ours: Authority) -> dict[str, str]:
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(ours.sign("broker", _HERE).both),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ours.certificate),
        "listener.name.mtls.ssl.client.auth": "required",
        "listener.name.old.ssl.enabled.protocols": "TLSv1.2",
        "listener.name.expired.ssl.keystore.location": str(ours.sign("expired", _HERE, -1).both),
        "listener.name.named.ssl.keystore.location": str(ours.sign("named", "DNS:kafka.example").both),
        "listener.name.astray.ssl.keystore.location": str(ours.sign("astray", "IP:127.0.0.1").both),
    }
