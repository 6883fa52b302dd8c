"""The least rights on a Kafka cluster under which each side works, as the ACLs of Apache Kafka's StandardAuthorizer.

What it does with them, as far as these rely on it: rights are given on topics by their whole name (literal) or by how
they begin (prefixed), and all that fit a topic count; one that denies beats every one that allows, however exact either
is; Read, Write and Delete bring Describe with them.  Nothing here is a right on the cluster: an idempotent producer
needs none since Kafka 3.0, where it may write to any topic, and `Create` is taken from the topic's name.  Reading
without a group needs no right on groups.

Streams begin as receipts do, PREFIX.  So the source, which may write to all streams, is denied the receipts by name:
it could forge the word of a replica.  Where the streams are named, each right is on one name, and nothing is denied.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from schemas import topics

LOOK = ("Describe", "DescribeConfigs")
MAKE = ("Create",)
"""Not given where the topics are made beforehand."""
SHIP = ("Read", "Write", "Delete")
"""Delete is for DeleteRecords, which trims what is applied; Kafka has no right for that alone, so it lets a topic be
deleted, too."""


@dataclass(frozen=True, slots=True)
class Roles:
    """The principals, as in `User:name`.  One that is both source and target is not denied what the target needs."""

    source: str
    target: str
    auditor: str


@dataclass(frozen=True, slots=True)
class Right:
    """What `principal` may do with the topics called `topic`, or with `prefixed` those that begin so; or may not."""

    role: str
    principal: str
    operations: tuple[str, ...]
    topic: str
    prefixed: bool = False
    allowed: bool = True


def needed(roles: Roles, prefix: str, streams: Sequence[uuid.UUID] = ()) -> list[Right]:
    """Every right of every role; on all topics of `prefix`, or only on those of `streams` and the two shared ones."""
    return _named(roles, prefix, streams) if streams else _prefixed(roles, prefix)


def names(prefix: str, streams: Sequence[uuid.UUID]) -> list[str]:
    """The topics: the shared ones, then one for each stream."""
    return [topics.receipts(prefix), topics.control(prefix), *(topics.stream(one.bytes, prefix) for one in streams)]


def _prefixed(roles: Roles, prefix: str) -> list[Right]:
    receipts = topics.receipts(prefix)
    begin = receipts.removesuffix("receipts")
    found = [Right("source", roles.source, (*SHIP, *LOOK, *MAKE), begin, True)]
    if roles.source != roles.target:
        found.append(Right("source", roles.source, ("Write", "Delete"), receipts, allowed=False))
    return [
        *found,
        Right("target", roles.target, ("Read", *LOOK), begin, True),
        Right("target", roles.target, ("Write", *MAKE), receipts),
        Right("auditor", roles.auditor, ("Read", "Describe"), begin, True),
    ]


def _named(roles: Roles, prefix: str, streams: Sequence[uuid.UUID]) -> list[Right]:
    receipts, *others = names(prefix, streams)
    return [
        *(Right("source", roles.source, (*SHIP, *LOOK), topic) for topic in others),
        Right("source", roles.source, ("Read", *LOOK), receipts),
        *(Right("target", roles.target, ("Read", *LOOK), topic) for topic in others),
        Right("target", roles.target, ("Read", "Write", *LOOK), receipts),
        *(Right("auditor", roles.auditor, ("Read", "Describe"), topic) for topic in (receipts, *others)),
    ]
