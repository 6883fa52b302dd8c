"""The rules for a Kafka topic, as a table."""

from __future__ import annotations

import pytest

from engine import errors
from engine.bus.kafka import settings


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_a_topic_that_is_made_by_us_passes_our_own_check(copies: int) -> None:
    settings.check("topic", settings.wanted(copies), copies, "host:9092")


def test_one_in_sync_copy_of_three_is_refused_and_of_one_is_not() -> None:
    found = settings.wanted(3) | {"min.insync.replicas": "1"}
    settings.check("topic", found, 1, "host:9092")
    with pytest.raises(
        errors.Unsafe, match=r"min\.insync\.replicas=1, must be 2: .*--add-config min\.insync\.replicas=2"
    ):
        settings.check("topic", found, 3, "host:9092")


def test_what_a_cluster_does_not_tell_is_not_held_against_it() -> None:
    settings.check("topic", {"cleanup.policy": "delete"}, 3, "host:9092")


@pytest.mark.parametrize(("value", "fits"), [("2097151", False), ("2097152", True), ("10485760", True)])
def test_batches_must_pass_the_topic(value: str, fits: bool) -> None:
    found = settings.wanted(1) | {"max.message.bytes": value}
    if fits:
        settings.check("topic", found, 1, "host:9092")
    else:
        with pytest.raises(errors.Unsafe, match="batches of 2097152 bytes must pass"):
            settings.check("topic", found, 1, "host:9092")


def test_sizes_stand_in_the_order_that_lets_every_batch_through() -> None:
    assert settings.BATCH < settings.MESSAGE < settings.FETCH_PARTITION < settings.FETCH
