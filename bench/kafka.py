"""End to end over a real Kafka broker, against raw aiokafka sending and receiving the same records on it."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench import images
from bench.measure import GIB, MIB, ROOT, load, python, replicate, run, spread, tell
from bench.report import Section, Verdict

_BATCH = 2 << 20


def _records(image: Path) -> list[bytes]:
    """The records that a baseline of `image` sends, without a thousandth: opens and seals."""
    from engine import digest, envelope
    from schemas import events, wire
    from schemas.identity import Address, Attempt

    found: list[bytes] = []
    for start, data in images.pieces(image, wire.MAX_PAYLOAD):
        event = events.Written(0, start, digest.of_pieces(start, data, images.BLOCK), data)
        address = Address(0, Attempt(1, bytes(8)), 1, len(found))
        found.append(wire.pack_event(bytes(16), address, event, envelope.squeeze))
    return found


async def _send(servers: str, topic: str, records: list[bytes]) -> None:
    from aiokafka import AIOKafkaProducer

    producer: Any = AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", enable_idempotence=True, max_batch_size=_BATCH, max_request_size=_BATCH
    )
    await producer.start()
    try:
        for record in records:
            await producer.send(topic, record, partition=0)
        await producer.flush()
    finally:
        await producer.stop()


async def _receive(servers: str, topic: str, records: list[bytes], ready: threading.Event) -> None:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    place = TopicPartition(topic, 0)
    consumer: Any = AIOKafkaConsumer(
        bootstrap_servers=servers, auto_offset_reset="none", fetch_max_bytes=32 << 20, max_partition_fetch_bytes=8 << 20
    )
    await consumer.start()
    try:
        consumer.assign([place])
        consumer.seek(place, 0)
        ready.set()
        at = 0
        while at < len(records):
            for record in (await consumer.getmany(place, timeout_ms=1000)).get(place, ()):
                if len(record.value) != len(records[at]):
                    raise RuntimeError(f"record {at} came back as another one")
                at += 1
    finally:
        await consumer.stop()


async def _raw(servers: str, image: Path, goal: str) -> dict[str, float]:
    """Seconds to send and receive the records of `image` over a new topic: both at once, each in its own thread."""
    from engine.bus.kafka.bus import KafkaBus

    records = _records(image)
    bus = await KafkaBus.connect(servers.split(","))
    await bus.open(goal)  # made with the settings that vmferry's own topics have
    await bus.close()
    ready = threading.Event()
    receiver = threading.Thread(target=lambda: asyncio.run(_receive(servers, goal, records, ready)))
    receiver.start()
    await asyncio.to_thread(ready.wait)
    began = time.perf_counter()
    await _send(servers, goal, records)
    sent = time.perf_counter() - began
    await asyncio.to_thread(receiver.join)
    return {"seconds": time.perf_counter() - began, "sent": sent, "bytes": float(sum(map(len, records)))}


def _run_raw(servers: str, image: Path, goal: str) -> dict[str, float]:
    done = subprocess.run(
        python("-m", "bench.kafka", servers, str(image), goal), capture_output=True, text=True, cwd=ROOT, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def section(directory: Path, quick: bool, count: int) -> Section:
    """Rounds of both in turn on one broker."""
    from tests.support import kafka

    size, data = (256 * MIB, 64 * MIB) if quick else (4 * GIB, GIB)
    source = directory / "kafka.img"
    images.make(source, size, data)
    whole: list[float] = []
    raw: list[dict[str, float]] = []
    busy = load()
    with kafka.running(directory / "broker") as cluster:
        servers = cluster.servers
        for turn in range(count):
            goal, state = directory / f"kafka-{turn}.img", directory / f"kafka-state-{turn}"
            images.warm(source)
            whole.append(run(replicate(source, goal, state, "--bus", cluster.url, "--name", f"bench-{turn}")).seconds)
            raw.append(_run_raw(servers, source, f"vmferry.raw.{turn}"))
            goal.unlink()
            tell(f"  round {turn + 1}/{count}: vmferry {whole[-1]:.2f} s, raw aiokafka {raw[-1]['seconds']:.2f} s")
    source.unlink()
    plain = [one["seconds"] for one in raw]
    ours, theirs = statistics.median(whole), statistics.median(plain)
    amount = raw[0]["bytes"] / MIB
    share = theirs / ours
    return Section(
        f"3. End to end over Kafka: an image of {size / GIB:.2f} GiB, {data / GIB:.2f} GiB of it data",
        "One broker on loopback, one partition, acks=all, idempotent, batches of 2 MiB on both sides.  Raw: aiokafka "
        "sends the records that vmferry makes, from memory, and receives them at the same time in another thread; "
        "connecting is counted, the start of the interpreter is not.  vmferry: the whole command.",
        ("", "median", "least - most", "rate"),
        [
            ("**vmferry replicate**, durable and proved", f"{ours:.2f} s", spread(whole), f"{amount / ours:.0f} MiB/s"),
            ("raw aiokafka, from and to memory", f"{theirs:.2f} s", spread(plain), f"{amount / theirs:.0f} MiB/s"),
        ],
        [
            Verdict(
                "end to end over Kafka against raw aiokafka", f"{share:.0%}", ">= 70 %", share >= 0.7,
                "broker and both sides share the cores; beyond what the raw clients do each byte is read, hashed three "
                "times, written to the replica, synced, and read back from the medium",
            )
        ],
        load=busy,
    )  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_raw(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))) + "\n")
