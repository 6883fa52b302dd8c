"""TOML with places: which file and line a key stands on, so that what is wrong with it can be said there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import errors

Path_ = tuple[str | int, ...]
"""Where a key stands: ("streams", "web", "every"), ("accept", 0, "path")."""
_HEADER = re.compile(r"\s*(\[\[?)(.+?)(\]\]?)\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([^=#\[]+?)\s*=")


class Misset(errors.Usage):
    """A config that cannot be used: every problem, one a line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(slots=True)
class Source:
    """One file: what it says, and where."""

    path: Path
    values: dict[str, Any]
    lines: dict[Path_, int] = field(default_factory=dict)

    def at(self, place: Path_) -> str:
        """ "FILE:LINE: KEY" of a key, or of the first that stands in it, or of the nearest table around it."""
        inside = [line for key, line in self.lines.items() if key[: len(place)] == place]
        if inside and place not in self.lines:
            return f"{self.path}:{min(inside)}: {spelled(place)}"
        for end in range(len(place), 0, -1):
            if place[:end] in self.lines:
                return f"{self.path}:{self.lines[place[:end]]}: {spelled(place)}"
        return f"{self.path}: {spelled(place)}"


def spelled(place: Path_) -> str:
    """The key as one would write it: streams."web 1".every."""
    parts = (
        str(part + 1) if isinstance(part, int) else part if re.fullmatch(r"[\w-]+", part, re.ASCII) else f'"{part}"'
        for part in place
    )
    return ".".join(parts)


def read(path: Path) -> Source:
    """The file.  Raises Misset, naming the line, when it is no TOML; NotFound and Usage when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        return Source(path, tomllib.loads(text), _lines(text))
    except tomllib.TOMLDecodeError as why:
        said = re.sub(r"\(at line (\d+), column (\d+)\)", "", str(why)).strip()
        line = re.search(r"at line (\d+)", str(why))
        raise Misset([f"{path}:{line[1] if line else '1'}: {said}"]) from why
    except UnicodeDecodeError as why:
        raise Misset([f"{path}: it is not UTF-8 text ({why.reason} at byte {why.start})"]) from why
    except FileNotFoundError as why:
        raise errors.NotFound(f"there is no config {path}: README.md says what stands in one") from why
    except OSError as why:
        raise errors.Usage(f"{path}: {why.strerror}: let this user read it") from why


def _lines(text: str) -> dict[Path_, int]:
    """The line of each table and key.  Best effort for keys within inline tables: their table's line stands."""
    found: dict[Path_, int] = {}
    table: Path_ = ()
    arrays: dict[Path_, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if (header := _HEADER.match(line)) and (names := _parsed(header[2])):
            table = names
            if header[1] == "[[":
                arrays[names] = arrays.get(names, -1) + 1
                table = (*names, arrays[names])
            found.setdefault(table, number)
        elif (key := _KEY.match(line)) and (names := _parsed(key[1])):
            found.setdefault((*table, *names), number)
    return found


def _parsed(key: str) -> tuple[str, ...]:
    """The parts of a dotted key, quotes taken off; none when it is not one."""
    try:
        value: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    parts: list[str] = []
    while isinstance(value, dict):
        ((part, value),) = value.items()
        parts.append(part)
    return tuple(parts)


Convert = Callable[[Any], Any]


@dataclass(slots=True)
class Reader:
    """Takes values out of tables, and collects what is wrong instead of stopping at the first."""

    source: Source
    problems: list[str] = field(default_factory=list)

    def wrong(self, place: Path_, why: str) -> None:
        self.problems.append(f"{self.source.at(place)}: {why}")

    def table(
        self, place: Path_, values: Mapping[str, Any], known: Mapping[str, Convert], needed: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The converted values of the keys that are there; unknown, missing and bad ones become problems."""
        found: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                near = ", ".join(sorted(known))
                self.wrong((*place, name), f"no such key; known here: {near}")
                continue
            try:
                found[name] = known[name](value)
            except errors.Usage as why:
                inside = getattr(why, "key", "")
                self.wrong((*place, name, *([inside] if inside else [])), str(why))
        for name in needed:
            if name not in values:
                self.wrong(place or (name,), f"{name} is missing" if place else "it is missing")
        return found
