"""Why a broker does not serve us.  aiokafka says "Unable to bootstrap" to nearly everything, so we knock ourselves:
the connection, TLS, the first request that every broker answers, and the user, in this order, until one fails."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Iterable

from aiokafka import errors as kafka
from aiokafka.conn import create_conn

from engine import errors
from engine.bus.kafka import access as access_of
from engine.bus.kafka import wrong
from engine.bus.kafka.access import Access

_SECONDS = 5.0
"""For one broker; a busy one takes about a second for TLS and a user."""
_AGAIN_SECONDS = 0.5
_HELLO = struct.pack(">hhih", 18, 0, 1, -1)
"""An ApiVersions request of version 0: what every broker answers to everybody."""
_LONGEST = 1 << 20
"""More than any answer to these requests: what claims to be longer is not Kafka's."""
_UNSUPPORTED_MECHANISM, _ILLEGAL_STATE = 33, 34
"""Answers to a SaslHandshake: the listener has other mechanisms; it has no users at all."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def reach(access: Access, servers: Iterable[str]) -> dict[str, errors.FerryError | None]:
    """What is wrong with each server: Usage for the operator to mend, Transient, or None when it serves us."""
    listed = list(dict.fromkeys(servers))
    found = await asyncio.gather(*(_ask(access, server) for server in listed))
    return dict(zip(listed, found, strict=True))


def told(found: dict[str, errors.FerryError | None]) -> tuple[int, str]:
    """(how many of the servers serve us, what is wrong with the others)."""
    serving = [server for server, why in found.items() if why is None]
    return len(serving), "; ".join(str(why) for why in found.values() if why is not None)


async def _ask(access: Access, server: str) -> errors.FerryError | None:
    try:
        async with asyncio.timeout(_SECONDS):
            await _knock(access, server)
    except errors.FerryError as why:
        return why
    except ConnectionRefusedError:
        return errors.Transient(f"nothing listens at {server}")
    except TimeoutError:
        return errors.Transient(f"{server} does not answer within {_SECONDS:g} s")
    except (asyncio.IncompleteReadError, ConnectionError, struct.error, UnicodeDecodeError, _NotKafka):
        return errors.Transient(f"{server} does not speak as a Kafka broker")
    except OSError as why:
        return errors.Transient(f"{server}: {why.strerror or why}")
    return None


async def _knock(access: Access, server: str) -> None:
    context = access.context()
    if context is None:
        await _in_the_clear(access, server)
    else:
        await _by_tls(access, server, context)
    if access.security.mechanism:
        await _as_user(access, server)


async def _in_the_clear(access: Access, server: str) -> None:
    async with _connected(server) as stream:
        try:
            await _asked(stream, _HELLO)
        except (asyncio.IncompleteReadError, ConnectionError, _NotKafka):
            if await _speaks_tls(server):
                raise wrong.tls_wanted(server) from None
            raise
        await _mechanisms(access, server, stream)


async def _by_tls(access: Access, server: str, context: ssl.SSLContext) -> None:
    shaken, why = await _tried(access, server, context)
    if why is not None and shaken and _closed(why):
        # In TLS 1.3 our side is done before the broker has looked at our certificate: it refuses the first request, and
        # a reset may swallow its reason.  A broker that is killed looks the same, but not twice.
        await asyncio.sleep(_AGAIN_SECONDS)
        shaken, why = await _tried(access, server, context)
    if why is None:
        return
    if isinstance(why, ssl.SSLCertVerificationError):
        raise wrong.untrusted(access.security, server, why) from why
    if not shaken and await _speaks_clear(server):
        raise wrong.no_tls(server) from why
    if shaken:
        raise wrong.certificate_refused(access.security, server, why) from why
    if isinstance(why, ssl.SSLError) and _by_peer(why):
        raise wrong.refused_by_tls(server, why) from why
    raise _NotKafka from why


async def _tried(access: Access, server: str, context: ssl.SSLContext) -> tuple[bool, Exception | None]:
    """Whether our side of TLS came to its end, and what went wrong then or before."""
    shaken = False
    try:
        async with _connected(server, context) as stream:
            shaken = True
            await _asked(stream, _HELLO)
            await _mechanisms(access, server, stream)
    except ConnectionRefusedError:
        raise
    except (ssl.SSLError, asyncio.IncompleteReadError, ConnectionError) as why:
        return shaken, why
    return shaken, None


def _closed(why: Exception) -> bool:
    """The other end went away without a word."""
    return not isinstance(why, ssl.SSLError) or isinstance(why, (ssl.SSLEOFError, ssl.SSLZeroReturnError))


def _by_peer(why: ssl.SSLError) -> bool:
    """Said by the other end, which so speaks TLS; or about a version of TLS that it has chosen."""
    return "ALERT" in (why.reason or "") or "UNSUPPORTED_PROTOCOL" in (why.reason or "")


async def _mechanisms(access: Access, server: str, stream: Stream) -> None:
    """Whether the listener wants a user, and takes our way to prove one.  Raises Usage."""
    name = (access.security.mechanism or "none").encode()
    try:
        answer = await _asked(stream, struct.pack(">hhihh", 17, 1, 2, -1, len(name)) + name)
    except (asyncio.IncompleteReadError, ConnectionError):
        if access.security.mechanism:
            raise
        return  # not a broker's way, but it has answered before
    code, count = struct.unpack_from(">hi", answer)
    offered, at = [], 6
    for _ in range(count):
        (length,) = struct.unpack_from(">h", answer, at)
        offered.append(answer[at + 2 : at + 2 + length].decode())
        at += 2 + length
    if code == _UNSUPPORTED_MECHANISM:
        raise wrong.mechanism(access.security, server, offered)
    if code == _ILLEGAL_STATE and access.security.mechanism:
        raise wrong.no_users(access.security, server)


async def _as_user(access: Access, server: str) -> None:
    host, port = access_of.split(server)
    try:
        connection = await create_conn(host, port, **access.proof())
    except (kafka.SaslAuthenticationFailed, kafka.AuthenticationFailedError) as why:
        raise wrong.user(access.security, server) from why
    except ValueError as why:  # of aiokafka: the broker's own proof is not right
        raise wrong.impostor(server) from why
    except kafka.KafkaError as why:
        raise errors.Transient(f"{server}: {why}") from why
    connection.close()


class _NotKafka(Exception):
    """Bytes came that no broker sends."""


async def _asked(stream: Stream, request: bytes) -> bytes:
    """The answer to one request, without length and correlation."""
    reader, writer = stream
    writer.write(struct.pack(">i", len(request)) + request)
    (length,) = struct.unpack(">i", await reader.readexactly(4))
    if not 4 <= length <= _LONGEST:
        raise _NotKafka
    return (await reader.readexactly(length))[4:]


@contextlib.asynccontextmanager
async def _connected(server: str, context: ssl.SSLContext | None = None) -> AsyncIterator[Stream]:
    host, port = access_of.split(server)
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # without TLS's goodbyes, for which a broker that hangs would be waited for
        await asyncio.sleep(0)


async def _speaks_tls(server: str) -> bool:
    """Trusting anybody: nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with _connected(server, context):
            return True
    except ssl.SSLError as why:
        return _by_peer(why)
    except OSError:
        return False


async def _speaks_clear(server: str) -> bool:
    try:
        async with _connected(server) as stream:
            await _asked(stream, _HELLO)
    except (asyncio.IncompleteReadError, OSError, _NotKafka):
        return False
    return True
