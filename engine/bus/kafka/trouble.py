"""What aiokafka raises, as the errors of engine/errors.py, with a cause that was looked for."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import cast

from aiokafka import errors as kafka

from engine import errors
from engine.bus.kafka import settings

_PROBE_SECONDS = 2.0
_HELLO = struct.pack(">ihhih", 10, 18, 0, 1, -1)
"""An ApiVersions request of version 0, with its length before it: what every broker answers to everybody."""

POISONED = (
    kafka.OutOfOrderSequenceNumber,
    kafka.UnknownProducerId,
    kafka.InvalidProducerIdMapping,
    kafka.InvalidProducerEpoch,
    kafka.ProducerFenced,
)
"""After these a producer is of no more use; a new one goes on (repeating what was not acknowledged)."""

_FORBIDDEN = (
    kafka.TopicAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.AuthenticationFailedError,
)
_REFUSED = (
    kafka.InvalidTopicError,
    kafka.InvalidReplicationFactorError,
    kafka.InvalidConfigurationError,
    kafka.InvalidTimestampError,
    kafka.PolicyViolationError,
    kafka.UnsupportedVersionError,
    kafka.IncompatibleBrokerVersion,
)


def classify(topic: str, why: BaseException) -> errors.FerryError:
    """The error of ours that says what `why` says about `topic`."""
    if isinstance(why, errors.FerryError):
        return why
    if isinstance(why, (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)):
        return errors.Unsafe(
            f"Kafka topic {topic} refuses a batch for its size: max.message.bytes must be {settings.MESSAGE} "
            f"(at least {settings.BATCH}); it was changed after the start"
        )
    if isinstance(why, kafka.CorruptRecordException):
        return errors.Damaged(f"Kafka topic {topic}: {why}: a broker gave bytes that do not have their checksum")
    if isinstance(why, _FORBIDDEN):
        return errors.Usage(f"Kafka does not allow it on {topic}: {why}; give this user the rights to it")
    if isinstance(why, _REFUSED):
        return errors.Usage(f"Kafka topic {topic}: the cluster refuses: {why}")
    if isinstance(why, POISONED):
        return errors.Transient(f"Kafka topic {topic}: the producer lost its place ({why}); a new one goes on")
    return errors.Transient(f"Kafka topic {topic}: {why}")


async def reach(servers: Sequence[str]) -> tuple[int, str]:
    """(how many of `servers` answer, what is wrong with each of the others)."""
    found = await asyncio.gather(*(_probe(server) for server in servers))
    return found.count(None), "; ".join(cast(list[str], [said for said in found if said is not None]))


async def _probe(server: str) -> str | None:
    host, _, port = server.rpartition(":")
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(_HELLO)
                await reader.readexactly(8)
            finally:
                writer.close()
    except ConnectionRefusedError:
        return f"nothing listens at {server}"
    except TimeoutError:
        return f"{server} does not answer within {_PROBE_SECONDS:g} s"
    except asyncio.IncompleteReadError:
        return f"{server} does not speak as a Kafka broker"
    except OSError as why:
        return f"{server}: {why.strerror or why}"
    return None
