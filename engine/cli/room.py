"""How much room a run needs, where, and whether it is there."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from engine import errors, linux, places, quotas, units
from engine.cli.setting import Pair
from engine.device import images

_OF_DATA, _OF_ANY, _BESIDE = 80, 0.5, 1 << 20
"""Bytes of state for a block with data (prints and digests of both sides), for any block (marks), and for the rest."""
_HEADERS = 1.005
"""Records of the log are so much longer than the data in them."""


@dataclass(frozen=True, slots=True)
class Need:
    """`amount` bytes for `what` at `path`, of whose file system `free` are free (None: it does not say)."""

    what: str
    path: str
    amount: int
    free: int | None


def needs(where: places.Places, pair: Pair, data: int, travels: int, undo_quota: int) -> list[Need]:
    """What a run may take, at most: `data` bytes stand in the source, `travels` of them go over."""
    target = pair.replica.disks[0].path
    held = _allocated(target)
    found: list[Need] = []
    if isinstance(images.parse(target), str):  # of what a server exports only it knows
        found.append(_need("target", target, 0 if held is None else max(0, min(data - held, travels))))
    if pair.stream.bus.startswith("log:"):
        found.append(_need("log", pair.stream.bus[4:], int(travels * _HEADERS)))
    undo = min(travels, held or 0 if held is not None else travels)
    place = str(where.replica(pair.stream.stream, pair.replica.replica))
    found.append(_need("undo", place, min(undo, undo_quota) if undo_quota else undo))
    directory = where.stream(pair.stream.stream)
    there = quotas.used(directory, quotas.PRE_IMAGES)
    return [*found, _need("state", str(directory), max(0, state(pair, data) - there))]


def state(pair: Pair, data: int) -> int:
    """About how many bytes the state of both sides takes, for `data` bytes in the source; pre-images not counted."""
    size = pair.stream.disks[0].block_size
    return int(-(-data // size) * _OF_DATA + sum(pair.sizes) // size * _OF_ANY) + _BESIDE


def refuse_state(where: places.Places, pair: Pair, data: int, quota: int) -> None:
    """Raises Full when the state will take, or takes, more than its quota (0: no bound)."""
    directory = where.stream(pair.stream.stream)
    amount = max(state(pair, data), quotas.used(directory, quotas.PRE_IMAGES))
    if quota and amount > quota:
        raise errors.Full(
            f"the state of {pair.stream.disks[0].path} takes about {units.shown(amount)} in {directory}, and"
            f" --state-quota allows {units.shown(quota)}: give it more, or a new stream a larger --block-size;"
            " nothing was sent"
        )


def _allocated(target: str) -> int | None:
    """Bytes that a target file takes already; None for a device or an export, which take no more."""
    if not isinstance(images.parse(target), str):
        return None
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return 0
    except OSError as why:
        raise linux.failure(why, target, "look at it", opening=True) from why
    return None if stat.S_ISBLK(found.st_mode) else found.st_blocks * 512


def _need(what: str, path: str, amount: int) -> Need:
    return Need(what, path, amount, linux.free_bytes(_existing(path)))


def _existing(path: str) -> str:
    """The nearest directory above that is there: it will be made on that file system."""
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def short(needed: Sequence[Need]) -> str:
    """A sentence when what shares a file system does not fit there; nothing when it does, or cannot be told."""
    shared: dict[int, list[Need]] = {}
    for need in needed:
        shared.setdefault(os.stat(_existing(need.path)).st_dev, []).append(need)
    for group in shared.values():
        total, free = sum(need.amount for need in group), group[0].free
        if free is not None and total > free:
            parts = " and ".join(f"{units.shown(need.amount)} for the {need.what}" for need in group if need.amount)
            return f"{group[0].path}: {parts} are needed, and its file system has {units.shown(free)} free"
    return ""


def refuse(needed: Sequence[Need]) -> None:
    """Raises Full, with the figures, when there is provably no room."""
    if why := short(needed):
        raise errors.Full(f"{why}: free some space, or take another target or --bus; nothing was sent")
