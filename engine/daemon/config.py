"""The config of a daemon: one TOML file and the fragments beside it.  What is wrong with one stream stays with it."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import errors, places, units
from engine.bus import security
from engine.bus.security import PLAIN, Security
from engine.daemon import disks
from engine.daemon.disks import Disks
from engine.daemon.toml import Convert, Misset, Reader, Source, read, spelled
from schemas import errors as schema_errors
from schemas import topics

_SITE = re.compile(r"[^/\s\x00-\x1f][^/\x00-\x1f]{0,63}")
MODES = ("auto", "checkpoint", "scan")
"""How a machine is captured: as well as can be, or by a rung of the ladder and no better."""
EVERY = 30.0
"""Seconds between cuts where the config says nothing."""


@dataclass(frozen=True, slots=True)
class Common:
    """What both sides have.  `control` empty: where systemd has a place for it, else beside the state."""

    file: Path
    site: str
    bus: str
    prefix: str = topics.PREFIX
    state: str = ""
    control: str = ""
    control_group: str = ""
    metrics: str = ""
    drain: float = 10.0
    at_once: int = 4
    hypervisor: str = "qemu:///system"
    scratch: str = places.SCRATCH
    kafka: Security = PLAIN


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """Disks that are one stream.  `id`: a VM's own UUID; empty: made once.  `keep` seconds, `cap` bytes of its log.

    `disks` are (volume, path), in the order in which a new stream has them; without a path the volume is given up.  One
    that stands on another line now is the same.
    """

    name: str
    disks: Disks
    id: str = ""
    format: str = ""
    secret_file: str = ""
    block_size: int = 0
    every: float = EVERY
    rate: int | None = None
    keep: float = 0.0
    cap: int = 0
    log_quota: int | None = None
    force_share: bool = False
    vm: str = ""
    "A machine of libvirt's, by name or UUID: then its disks are the stream's, and `disks` is empty."
    mode: str = "auto"
    exclude: tuple[str, ...] = ()
    freeze: bool = False
    where: str = field(default="", compare=False)

    @property
    def disk(self) -> str:
        """The first disk, which a stream without an `id` is known by."""
        return next((path for _, path in self.disks if path), "")

    @property
    def paths(self) -> tuple[str, ...]:
        """The disks that are read."""
        return tuple(path for _, path in self.disks if path)


@dataclass(frozen=True, slots=True)
class Accept:
    """Which streams a target takes: `streams` matches SITE/NAME, `path` says where each replica lies.

    `adopt`: an image that is there already is read, and what differs in it is overwritten.
    """

    streams: str
    path: str
    format: str = ""
    secret_file: str = ""
    quota: int = 0
    undo_quota: int = 0
    adopt: bool = False
    where: str = ""

    @property
    def base(self) -> str:
        """The directory that has to be there: what follows depends on the stream, and is made for it."""
        return os.path.dirname(self.path.partition("{")[0]) or "/"


@dataclass(frozen=True, slots=True)
class Config:
    """All of it.  `problems` are those of single streams and rules: the rest runs without them."""

    common: Common
    streams: tuple[StreamConfig, ...] = ()
    accept: tuple[Accept, ...] = ()
    problems: tuple[str, ...] = ()
    troubled: tuple[str, ...] = ()
    "Names of streams that stand in the config and cannot be used as they stand."


def protected(state: Path) -> Path:
    """Where the fragments lie that `vmferry protect` makes."""
    return state / "source" / "protected"


def load(file: Path, side: str, protected: Path | None = None) -> Config:
    """The config of a `side` ("source" or "target").  Raises Misset for what nobody can run with, NotFound, Usage.

    Fragments are FILE without its suffix and `.d`, `*.toml` in the order of their names: /etc/vmferry/source.toml has
    /etc/vmferry/source.d/; and those in `protected`.
    """
    main = read(file.absolute())
    reader = Reader(main)
    common = _common(reader, side)
    if reader.problems:
        raise Misset(reader.problems)
    sources, problems = [main], list[str]()
    folders = [main.path.with_suffix(".d"), *([protected] if protected is not None else [])]
    for path in [path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.toml"))]:
        try:
            sources.append(read(path))
        except errors.Usage as why:
            problems.append(str(why))  # one broken fragment does not take the others with it
    defaults = _defaults(reader, side)
    if side == "source":
        streams, troubled = _streams(sources, defaults, problems)
        return Config(common, streams, (), tuple(problems), troubled)
    return Config(common, (), _accept(sources, problems), tuple(problems))


def check(file: Path, side: str) -> Config:
    """As `load`; raises Misset for any problem at all."""
    found = load(file, side)
    if found.problems:
        raise Misset(list(found.problems))
    return found


def _common(reader: Reader, side: str) -> Common:
    values = reader.source.values
    known: dict[str, Convert] = {
        "site": _site, "bus": _text, "prefix": _prefix, "state": _text, "control": _text, "control_group": _text,
        "metrics": _text, "drain": _seconds, "kafka": _kafka, "streams": _table, "accept": _tables, "defaults": _table,
    }  # fmt: skip
    known |= {"at_once": _count, "hypervisor": _text, "scratch": _disk} if side == "source" else {}
    for name in ("accept",) if side == "source" else ("streams", "defaults"):
        if name in values:
            other = "target" if side == "source" else "source"
            reader.wrong((name,), f"this is the config of a {side}; {name} belongs into that of a {other}")
    found = reader.table((), values, known, ("site", "bus"))
    for name in ("streams", "accept", "defaults"):
        found.pop(name, None)
    if reader.problems:
        return Common(reader.source.path, "", "")
    return Common(reader.source.path, **found)


_OF_STREAM: dict[str, Convert] = {}
_OF_RULE: dict[str, Convert] = {}


def _defaults(reader: Reader, side: str) -> dict[str, Any]:
    if side != "source":
        return {}
    allowed = {name: _OF_STREAM[name] for name in ("every", "rate", "block_size", "keep", "cap", "log_quota")}
    found = reader.table(("defaults",), reader.source.values.get("defaults", {}), allowed)
    if reader.problems:
        raise Misset(reader.problems)
    return found


def _streams(
    sources: list[Source], defaults: Mapping[str, Any], problems: list[str]
) -> tuple[tuple[StreamConfig, ...], tuple[str, ...]]:
    found: dict[str, StreamConfig] = {}
    seen: dict[str, str] = {}
    troubled: dict[str, None] = {}
    taken: dict[str, str] = {}
    for source in sources:
        _only(source, "streams", sources[0], problems)
        for name, table in _items(source, "streams", problems):
            place, reader = ("streams", name), Reader(source)
            where = source.at(place)
            one = None
            if not isinstance(table, dict):
                reader.wrong(place, "a table is wanted: [streams.NAME]")
            else:
                values = {**defaults, **reader.table(place, table, _OF_STREAM)}
                disks.take(reader, place, table, values)
                one = None if reader.problems else StreamConfig(name, where=where, **values)
            if not name.strip() or len(name) > 200:
                reader.wrong(place, "a name of 1 to 200 characters is wanted")
            if name in seen:
                reader.wrong(place, f"it stands at {seen[name]} as well: give one of them another name")
            elif one is not None:
                disks.shared(reader, (*place, "disks" if "disks" in table else "disk"), one.disks, taken)
            seen.setdefault(name, where)
            problems += reader.problems
            if reader.problems or one is None:
                troubled[name] = None
                continue
            taken |= dict.fromkeys(map(os.path.realpath, one.paths), where)
            found[name] = one
    return tuple(one for one in found.values() if one.name not in troubled), tuple(troubled)


def _accept(sources: list[Source], problems: list[str]) -> tuple[Accept, ...]:
    found: list[Accept] = []
    for source in sources:
        _only(source, "accept", sources[0], problems)
        rules = source.values.get("accept", [])
        if not isinstance(rules, list):
            problems.append(f"{source.at(('accept',))}: a list of tables is wanted: [[accept]]")
            continue
        for index, table in enumerate(rules):
            place, reader = ("accept", index), Reader(source)
            if isinstance(table, dict):
                values = reader.table(place, table, _OF_RULE, ("streams", "path"))
                if not reader.problems:
                    found.append(Accept(where=source.at(place), **values))
            else:
                reader.wrong(place, "a table is wanted: [[accept]]")
            problems += reader.problems
    return tuple(found)


def _items(source: Source, name: str, problems: list[str]) -> list[tuple[str, Any]]:
    tables = source.values.get(name, {})
    if isinstance(tables, dict):
        return list(tables.items())
    problems.append(f"{source.at((name,))}: tables are wanted: [{name}.NAME]")
    return []


def _only(source: Source, name: str, main: Source, problems: list[str]) -> None:
    """A fragment has streams or rules and nothing else: what holds for all of them stands in one place."""
    if source is main:
        return
    problems += [
        f"{source.at((key,))}: only {name} may stand in a fragment; {spelled((key,))} belongs into {main.path}"
        for key in source.values
        if key != name
    ]


# -- values -----------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise errors.Usage(f"a text is wanted, not {value!r}")
    return value


def _parsed(parse: Callable[[str], Any], example: str) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise errors.Usage(f"{value!r} is none: a text is wanted, as in {example}")
        return parse(str(value))

    return convert


_size = _parsed(units.size, '"64K" or "500G"')
_rate = _parsed(units.rate, '"20M" or "off"')


def _seconds(value: Any) -> float:
    found: float = _parsed(units.seconds, '"30s" or "5m"')(value)
    return found


def _every(value: Any) -> float:
    found = _seconds(value)
    if found < 0.1:
        raise errors.Usage(f"{value!r} is too often: at least 100ms")
    return found


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise errors.Usage(f"true or false is wanted, not {value!r}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 1000:
        raise errors.Usage(f"a whole number from 1 to 1000 is wanted, not {value!r}")
    return value


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise errors.Usage("a table is wanted")
    return value


def _kafka(value: Any) -> Security:
    return security.parse(_table(value))


def _tables(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise errors.Usage("a list of tables is wanted, each under [[accept]]")
    return value


def _site(value: Any) -> str:
    if not _SITE.fullmatch(_text(value)):
        raise errors.Usage(f"{value!r}: at most 64 characters, none of them a slash, as patterns are SITE/NAME")
    return str(value)


def _prefix(value: Any) -> str:
    try:
        topics.control(_text(value))
    except schema_errors.SchemaError as why:
        raise errors.Usage(str(why)) from why
    return str(value)


def _disk(value: Any) -> str:
    if "://" not in _text(value) and not os.path.isabs(value):
        raise errors.Usage(f"{value!r}: a daemon has no directory of its own; give the path from the root")
    return str(value)


def _disks(value: Any) -> Disks:
    return disks.parse(_table(value), _disk)


def _mode(value: Any) -> str:
    if value not in MODES:
        raise errors.Usage(f"{value!r} is none: {', '.join(MODES)}")
    return str(value)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise errors.Usage('a list of texts is wanted, as in ["vdb"]')
    return tuple(value)


def _uuid(value: Any) -> str:
    try:
        return str(uuid.UUID(_text(value)))
    except ValueError as why:
        raise errors.Usage(f"{value!r} is no UUID, as in `virsh domuuid NAME`") from why


def _block_size(value: Any) -> int:
    found: int = _size(value)
    if not 512 <= found <= 1 << 20 or found & (found - 1):
        raise errors.Usage(f"{value!r}: a power of two from 512 to 1M")
    return found


_FIELDS = ("site", "name", "id", "disk")


def _pattern(value: Any) -> str:
    """A path with {site}, {name}, {id} and {disk} in it."""
    text = _disk(value)
    named = re.findall(r"\{([^{}]*)\}", text)
    if unknown := [one for one in named if one not in _FIELDS]:
        raise errors.Usage(f"{{{unknown[0]}}} is not known in a path; {{site}}, {{name}}, {{id}}, {{disk}} are")
    if not {"name", "id"} & set(named):
        raise errors.Usage(f"{value!r} has neither {{name}} nor {{id}}: every stream would have the same replica")
    return text


_OF_STREAM |= {
    "disk": _disk, "disks": _disks, "id": _uuid, "format": _text, "secret_file": _disk, "block_size": _block_size,
    "every": _every, "rate": _rate, "keep": _seconds, "cap": _size, "log_quota": _size, "force_share": _flag,
    "vm": _text, "mode": _mode, "exclude": _names, "freeze": _flag,
}  # fmt: skip
_OF_RULE |= {
    "streams": _text, "path": _pattern, "format": _text, "secret_file": _disk, "quota": _size, "undo_quota": _size,
    "adopt": _flag,
}  # fmt: skip
