"""`vmferry topics`: the commands by which the operators of a Kafka cluster make room for vmferry, and no more.

Nothing is asked of a cluster: they run elsewhere, often by somebody else.
"""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from engine import errors
from engine.bus import connect
from engine.bus.kafka import rights, settings
from engine.cli import ending, options
from schemas.errors import SchemaError

_SERVERS = "localhost:9092"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the printed commands are about.  `config` is the file for --command-config, or empty."""

    servers: str
    config: str
    prefix: str
    streams: tuple[uuid.UUID, ...]
    copies: int
    roles: rights.Roles


def topics_(
    print_: Annotated[
        bool, typer.Option("--print", help="Print the commands that make topics and give rights; run nothing.")
    ] = False,
    bus: Annotated[str, typer.Option(metavar="URL", help="kafka://HOST:PORT,... for the commands.")] = "",
    prefix: Annotated[str, typer.Option(metavar="PREFIX", help="What the topics' names begin with.")] = "vmferry",
    stream: Annotated[
        list[str] | None, typer.Option(metavar="UUID", help="Only this stream, its topic made beforehand; repeatable.")
    ] = None,
    copies: Annotated[
        int, typer.Option(min=1, metavar="COUNT", help="Brokers that keep each topic.")
    ] = settings.COPIES,
    source_user: Annotated[str, typer.Option(metavar="TYPE:NAME", help="Who ships.")] = "User:vmferry-source",
    target_user: Annotated[str, typer.Option(metavar="TYPE:NAME", help="Who applies.")] = "User:vmferry-target",
    auditor_user: Annotated[str, typer.Option(metavar="TYPE:NAME", help="Who only reads.")] = "User:vmferry-auditor",
    command_config: Annotated[str, typer.Option(metavar="FILE", help="Of your administrator, for Kafka's tools.")] = "",
    state: options.State = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Tell the operators of a Kafka cluster which topics to make, and the least rights that each role needs."""
    with ending.told(as_json, debug):
        if not print_:
            raise errors.Usage("vmferry topics changes nothing on a cluster: give --print for the commands that do")
        roles = rights.Roles(*map(_principal, (source_user, target_user, auditor_user)))
        asked = Asked(_servers(bus), command_config, prefix, tuple(map(_stream, stream or ())), copies, roles)
        found = said(asked)
        if as_json:
            ending.emit(found)
        else:
            typer.echo("\n".join(lines(asked, found)))


def said(asked: Asked) -> dict[str, Any]:
    """The object of --json.  Raises Usage for a prefix that no bus takes."""
    try:
        names = rights.names(asked.prefix, asked.streams)
        needed = rights.needed(asked.roles, asked.prefix, asked.streams)
    except SchemaError as why:
        raise errors.Usage(str(why)) from why
    return {
        "event": "end", "ok": True,
        "topics": [_topic(asked, one, settings.wanted(asked.copies)) for one in names],
        "rights": [{**asdict(one), "command": _allow(asked, one)} for one in needed],
    }  # fmt: skip


def lines(asked: Asked, found: dict[str, Any]) -> list[str]:
    """The same, to be pasted into a shell."""
    if asked.streams:
        why = "# Topics of these streams, and no right to make others. A new stream needs this command again."
    else:
        why = "# Topics that all streams share. Those of streams are made by their source, at its first run."
    told = [why, *(one["command"] for one in found["topics"])]
    for role in ("source", "target", "auditor"):
        ours = [one for one in found["rights"] if one["role"] == role]
        told += ["", f"# {role}: {ours[0]['principal']}", *(one["command"] for one in ours)]
    return told


def _topic(asked: Asked, topic: str, made: dict[str, str]) -> dict[str, Any]:
    words = ["--create", "--if-not-exists", "--topic", topic, "--partitions", "1"]
    words += ["--replication-factor", str(asked.copies)]
    for name, value in made.items():
        words += ["--config", f"{name}={value}"]
    command = _command(asked, "kafka-topics.sh", words)
    return {"topic": topic, "partitions": 1, "copies": asked.copies, "settings": made, "command": command}


def _allow(asked: Asked, right: rights.Right) -> str:
    words = ["--add", "--allow-principal" if right.allowed else "--deny-principal", right.principal]
    for operation in right.operations:
        words += ["--operation", operation]
    words += ["--topic", right.topic]
    if right.prefixed:
        words += ["--resource-pattern-type", "prefixed"]
    return _command(asked, "kafka-acls.sh", words)


def _command(asked: Asked, tool: str, words: Sequence[str]) -> str:
    config = ["--command-config", asked.config] if asked.config else []
    return shlex.join([tool, "--bootstrap-server", asked.servers, *config, *words])


def _servers(bus: str) -> str:
    if not bus:
        return _SERVERS
    if not bus.startswith("kafka://"):
        raise errors.Usage(f"{bus!r}: only Kafka has topics and rights: kafka://HOST:PORT[,HOST:PORT...]")
    return ",".join(connect.servers(bus.removeprefix("kafka://"), bus))


def _stream(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError as why:
        raise errors.Usage(f"--stream {text!r} is no UUID; `vmferry status --json` has those of its streams") from why


def _principal(text: str) -> str:
    kind, colon, name = text.partition(":")
    if not (kind and colon and name):
        raise errors.Usage(f"{text!r} is no principal of Kafka: TYPE:NAME, as in User:vmferry-source")
    return text
