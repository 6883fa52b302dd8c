"""A bus by its URL: `log:PATH`, or `kafka://HOST:PORT[,HOST:PORT...]`."""

from __future__ import annotations

from engine import errors, ports
from engine.bus.security import PLAIN, Security

FORMS = "log:PATH, or kafka://HOST:PORT[,HOST:PORT...]"


async def connect(url: str, quota: int | None = None, security: Security = PLAIN) -> ports.Bus:
    """The bus at `url`; the caller closes it.  `quota` (bytes) bounds an embedded log, `security` is for Kafka.

    Raises Usage for a URL that is none of the forms and for a cluster that refuses us, Unsafe for a password in the
    clear, Transient when the bus is away.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "log" and rest:
        from engine.bus.embedded import EmbeddedBus

        return EmbeddedBus(rest, quota)
    if scheme == "kafka" and rest.startswith("//"):
        from engine.bus.kafka.bus import KafkaBus

        return await KafkaBus.connect(servers(rest[2:], url), security=security)
    raise errors.Usage(f"{url!r} is no bus: {FORMS}")


def servers(listed: str, url: str) -> tuple[str, ...]:
    """HOST:PORT for each broker of the list.  Raises Usage."""
    found = tuple(server for server in listed.rstrip("/").split(",") if server)
    for server in found:
        host, _, port = server.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise errors.Usage(f"{url!r}: {server!r} is not HOST:PORT; a bus is {FORMS}")
    if not found:
        raise errors.Usage(f"{url!r} names no broker: {FORMS}")
    return found
