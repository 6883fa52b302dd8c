from __future__ import annotations

import pytest

from schemas import errors, topics

IDENTITY = bytes.fromhex("123e4567e89b12d3a456426614174000")


def test_a_stream_has_one_topic_named_by_its_identity() -> None:
    assert topics.stream(IDENTITY) == "vmferry.123e4567-e89b-12d3-a456-426614174000"


def test_all_replicas_speak_on_one_topic() -> None:
    assert topics.receipts() == "vmferry.receipts"
    assert topics.control() == "vmferry.control"


def test_two_installations_on_one_bus_are_told_apart_by_their_prefix() -> None:
    assert topics.stream(IDENTITY, "site-a").startswith("site-a.")
    assert topics.receipts("site-a") == "site-a.receipts"


@pytest.mark.parametrize("prefix", ["", "a/b", "a b", "ü", "x" * 121, "a\n"])
def test_a_prefix_that_a_bus_would_refuse_is_refused_by_name(prefix: str) -> None:
    with pytest.raises(errors.SchemaError, match="topic prefix"):
        topics.receipts(prefix)
    with pytest.raises(errors.SchemaError, match="topic prefix"):
        topics.stream(IDENTITY, prefix)


def test_the_longest_name_is_one_that_kafka_takes() -> None:
    assert len(topics.stream(IDENTITY, "x" * 120)) <= 249
