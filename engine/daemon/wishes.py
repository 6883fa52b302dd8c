"""What an operator asked of one stream, kept beside its state: it outlives the daemon, and needs no bus."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from engine import errors, linux, places

log = logging.getLogger("vmferry.state")
VERSION = 1
FILE = "control.json"


@dataclass(frozen=True, slots=True)
class Wishes:
    """`rate`: bytes per second that the stream may send, 0 without limit, None where nobody asked.

    `forgotten`: the site gave it up, and no rule takes it again before somebody says so.
    """

    paused: bool = False
    rate: int | None = None
    forgotten: bool = False


def load(directory: Path) -> Wishes:
    """The wishes kept in `directory`; none, said aloud, when they do not read.  Raises Newer."""
    path = directory / FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        version = fields.pop("version")
        if version > VERSION:
            raise errors.Newer(path, version, VERSION)
        found = Wishes(**fields)
        if not isinstance(found.paused, bool) or not isinstance(found.rate, int | None):
            raise ValueError("a value of the wrong type")
        return found
    except FileNotFoundError:
        return Wishes()
    except OSError as why:
        raise linux.failure(why, str(path), "read it", opening=True) from why
    except errors.FerryError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as why:
        log.warning("%s does not read as written (%s): the stream is not paused, and no rate is kept", path, why)
        return Wishes()


def save(directory: Path, wishes: Wishes) -> None:
    """Durable when it returns: a stream that was paused stays so over a power cut."""
    places.make(directory)
    linux.replace_text(directory / FILE, json.dumps({"version": VERSION, **dataclasses.asdict(wishes)}))
