"""What is said when something on a topic did not happen in its time.  aiokafka tries again for ever and says nothing:
so the word to the user is ours."""

from __future__ import annotations

import asyncio

from engine import errors
from engine.bus.kafka import probe
from engine.bus.kafka.admin import Admin

_LOOK_SECONDS = 2.0
"""For the state of the copies, when it is late already; brokers that are away are asked in vain."""


async def late(admin: Admin, topic: str, what: str) -> errors.Transient:
    """`what` did not happen ("no acknowledgement within 30 s"): how many brokers answer, and how the copies are."""
    access = admin.access
    found, copies = await asyncio.gather(probe.reach(access, access.servers), _copies(admin, topic))
    count, wrong = probe.told(found)
    said = f"{count} of {len(found)} brokers answer" + (f" ({wrong})" if wrong else "") + f"; {copies}"
    return errors.Transient(f"Kafka topic {topic}: {what}: {said}")


async def _copies(admin: Admin, topic: str) -> str:
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            in_sync, copies = await admin.in_sync(topic)
            found = await admin.topic_settings(topic)
    except (TimeoutError, errors.FerryError) as why:
        return f"the state of its copies is not to be had ({str(why) or 'no answer'})"
    said = f"{in_sync} of {copies} copies are in sync"
    needed = int((found or {}).get("min.insync.replicas", "0"))
    if in_sync < needed:
        said += (
            f", and min.insync.replicas is {needed}: too few, so the cluster takes nothing; start the brokers that"
            " are away, or look at their logs for why they do not keep up"
        )
    return said
