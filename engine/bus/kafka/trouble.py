"""What aiokafka raises, as the errors of engine/errors.py."""

from __future__ import annotations

from aiokafka import errors as kafka

from engine import errors
from engine.bus.kafka import settings, wrong

POISONED = (
    kafka.OutOfOrderSequenceNumber,
    kafka.UnknownProducerId,
    kafka.InvalidProducerIdMapping,
    kafka.InvalidProducerEpoch,
    kafka.ProducerFenced,
)
"""After these a producer is of no more use; a new one goes on (repeating what was not acknowledged)."""

FORBIDDEN = (
    kafka.TopicAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,  # of an idempotent producer: it may write to no topic at all
    kafka.GroupAuthorizationFailedError,
)
_REFUSED = (
    kafka.InvalidTopicError,
    kafka.InvalidReplicationFactorError,
    kafka.InvalidConfigurationError,
    kafka.PolicyViolationError,
    kafka.UnsupportedVersionError,
    kafka.IncompatibleBrokerVersion,
    kafka.AuthenticationFailedError,
)


def classify(
    topic: str, why: BaseException, operation: str = "Read", principal: str = "this user"
) -> errors.FerryError:
    """The error of ours that says what `why` says about `topic`; `principal` tried `operation` (a word of ACLs)."""
    if isinstance(why, errors.FerryError):
        return why
    if isinstance(why, (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)):
        return errors.Unsafe(
            f"Kafka topic {topic} refuses a batch for its size: max.message.bytes must be {settings.MESSAGE} "
            f"(at least {settings.BATCH}); it was changed after the start"
        )
    if isinstance(why, kafka.CorruptRecordException):
        return errors.Damaged(f"Kafka topic {topic}: {why}: a broker gave bytes that do not have their checksum")
    if isinstance(why, FORBIDDEN):
        return wrong.forbidden(topic, operation, principal)
    if isinstance(why, kafka.InvalidTimestampError):
        return wrong.clock(topic)
    if isinstance(why, _REFUSED):
        return errors.Usage(f"Kafka topic {topic}: the cluster refuses: {why}")
    if isinstance(why, POISONED):
        return errors.Transient(f"Kafka topic {topic}: the producer lost its place ({why}); a new one goes on")
    return errors.Transient(f"Kafka topic {topic}: {why}")
