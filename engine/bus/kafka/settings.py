"""The settings under which a topic neither loses nor refuses our records: made so, and checked at every start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine import errors

BATCH = 2 << 20
"""Most bytes in one batch of a producer: two records of 1 MiB do not fit, three of 600 KiB do.  A batch above the
topic's limit is refused, and poisons the producer (measured), so it stays well below."""
MESSAGE = 4 << 20
FETCH_PARTITION = 8 << 20
FETCH = 32 << 20
SEGMENT = 128 << 20
STAMPED = ("message.timestamp.type", "LogAppendTime")
"""The broker stamps records by its own clock.  Else it refuses those of a host whose clock is an hour ahead of its own
(message.timestamp.after.max.ms).  Not a rule: a topic without it serves as long as clocks are right."""
COPIES = 3
IN_SYNC = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """What one setting of a topic must be: `value` is what to set, `fits` what may stand, `why` what breaks else."""

    value: str
    fits: Callable[[str], bool]
    why: str


def _is(*values: str) -> Callable[[str], bool]:
    return lambda found: found in values


RULES: Mapping[str, Rule] = {
    "cleanup.policy": Rule("delete", _is("delete"), "compaction takes records out of the middle of an epoch"),
    "retention.ms": Rule("-1", _is("-1"), "records would go by age, applied or not; vmferry trims what is applied"),
    "retention.bytes": Rule("-1", _is("-1"), "records would go by size, applied or not; vmferry trims what is applied"),
    "max.message.bytes": Rule(str(MESSAGE), lambda found: int(found) >= BATCH, f"batches of {BATCH} bytes must pass"),
    "unclean.leader.election.enable": Rule(
        "false", _is("false"), "a stale replica could lead and drop what was acknowledged"
    ),
    "compression.type": Rule(
        "producer", _is("producer", "uncompressed"), "records come compressed or encrypted already"
    ),
}
_IN_SYNC_RULE = Rule(
    str(IN_SYNC), lambda found: int(found) >= IN_SYNC, "an acknowledged record would be in one broker's memory only"
)


def rules(copies: int) -> Mapping[str, Rule]:
    """The rules for a topic with so many copies."""
    return {**RULES, "min.insync.replicas": _IN_SYNC_RULE} if copies >= IN_SYNC else RULES


def wanted(copies: int) -> dict[str, str]:
    """The settings a topic of ours is made with."""
    made = {name: rule.value for name, rule in RULES.items()}
    made |= dict([STAMPED])
    return made | {"segment.bytes": str(SEGMENT), "min.insync.replicas": str(min(IN_SYNC, copies))}


def check(topic: str, found: Mapping[str, str], copies: int, servers: str) -> None:
    """Raises Unsafe, naming each setting that does not fit, its value, the one to use, and the command that sets it."""
    wrong = {name: rule for name, rule in rules(copies).items() if name in found and not rule.fits(found[name])}
    if not wrong:
        return
    each = "; ".join(f"{name}={found[name]}, must be {rule.value}: {rule.why}" for name, rule in wrong.items())
    change = ",".join(f"{name}={rule.value}" for name, rule in wrong.items())
    raise errors.Unsafe(
        f"Kafka topic {topic}: {each}. Set it by: kafka-configs.sh --bootstrap-server {servers} --alter "
        f"--entity-type topics --entity-name {topic} --add-config {change}"
    )


def check_partitions(topic: str, count: int) -> None:
    """Raises Unsafe: a stream is one order, and a second partition would have another."""
    if count != 1:
        raise errors.Unsafe(
            f"Kafka topic {topic} has {count} partitions, must be 1: records of two have no common order. "
            "Let vmferry make the topic: delete it if nothing of value is in it, or use another prefix"
        )
