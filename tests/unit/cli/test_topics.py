"""`vmferry topics`: commands for the operators of a cluster, made without one."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from engine import errors
from engine.bus.kafka import settings
from engine.cli import app

STREAM = "123e4567-e89b-12d3-a456-426614174000"


def run(*options: str) -> Any:
    ended = CliRunner().invoke(app.whole(), ["topics", "--print", "--json", *options])
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.stdout)


def rights(found: Any, role: str) -> list[tuple[str, bool, bool, set[str]]]:
    return [
        (one["topic"], one["prefixed"], one["allowed"], set(one["operations"]))
        for one in found["rights"]
        if one["role"] == role
    ]


def test_the_commands_make_the_shared_topics_with_our_settings() -> None:
    found = run("--bus", "kafka://a:9092,b:9092", "--prefix", "dr")
    assert [one["topic"] for one in found["topics"]] == ["dr.receipts", "dr.control"]
    words = shlex.split(found["topics"][0]["command"])
    assert words[:4] == ["kafka-topics.sh", "--bootstrap-server", "a:9092,b:9092", "--create"]
    for name, value in settings.wanted(3).items():
        assert f"{name}={value}" in words
    assert words[words.index("--replication-factor") + 1] == "3"
    assert words[words.index("--partitions") + 1] == "1"


def test_a_source_may_ship_and_may_not_speak_for_a_replica() -> None:
    everything = {"Read", "Write", "Delete", "Describe", "DescribeConfigs", "Create"}
    assert rights(run(), "source") == [
        ("vmferry.", True, True, everything),
        ("vmferry.receipts", False, False, {"Write", "Delete"}),
    ]


def test_a_target_may_write_receipts_and_nothing_else() -> None:
    found = rights(run(), "target")
    assert found[0] == ("vmferry.", True, True, {"Read", "Describe", "DescribeConfigs"})
    assert found[1:] == [("vmferry.receipts", False, True, {"Write", "Create"})]


def test_an_auditor_reads() -> None:
    assert rights(run(), "auditor") == [("vmferry.", True, True, {"Read", "Describe"})]


def test_one_user_for_both_sides_is_not_denied_what_the_other_side_needs() -> None:
    found = run("--source-user", "User:both", "--target-user", "User:both")
    assert all(one["allowed"] for one in found["rights"])


def test_streams_that_are_named_have_topics_and_rights_by_name_and_none_to_make_others() -> None:
    found = run("--stream", STREAM, "--copies", "1")
    assert [one["topic"] for one in found["topics"]] == ["vmferry.receipts", "vmferry.control", f"vmferry.{STREAM}"]
    assert found["topics"][0]["settings"]["min.insync.replicas"] == "1"
    assert not [
        one for one in found["rights"] if one["prefixed"] or not one["allowed"] or "Create" in one["operations"]
    ]
    writes = {(one["role"], one["topic"]) for one in found["rights"] if "Write" in one["operations"]}
    assert writes == {
        ("source", f"vmferry.{STREAM}"), ("source", "vmferry.control"), ("target", "vmferry.receipts"),
    }  # fmt: skip


def test_what_is_printed_can_be_pasted() -> None:
    user = "User:CN=ferry source,O=Example"
    ended = CliRunner().invoke(
        app.whole(), ["topics", "--print", "--source-user", user, "--command-config", "/root/admin.properties"]
    )
    lines = [line for line in ended.stdout.splitlines() if line and not line.startswith("#")]
    assert len(lines) == 7
    for words in map(shlex.split, lines):
        assert words[0] in ("kafka-topics.sh", "kafka-acls.sh")
        assert words[words.index("--command-config") + 1] == "/root/admin.properties"
    assert [words for words in map(shlex.split, lines) if user in words]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--print", "--bus", "log:/var/log"], "only Kafka has topics"),
        (["--print", "--bus", "kafka://a"], "is not HOST:PORT"),
        (["--print", "--prefix", "a b"], "topic prefix 'a b'"),
        (["--print", "--stream", "web-1"], "'web-1' is no UUID"),
        (["--print", "--source-user", "ferry"], "'ferry' is no principal"),
        ([], "give --print"),
    ],
)
def test_what_makes_no_sense_is_named(options: list[str], said: str) -> None:
    ended = CliRunner().invoke(app.whole(), ["topics", *options])
    assert ended.exit_code == errors.Usage.exit_code
    assert said in ended.stderr
