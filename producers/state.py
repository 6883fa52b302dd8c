"""The files of a source side: its state, and the map.  What is lost is begun anew, aloud; what is damaged is kept."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine import errors, registry
from engine.store import database, scratch
from engine.store.blockmap import BlockMap, MapFiles, VolumeMap
from engine.store.file import OsFile
from engine.store.sources import SourceState
from engine.store.sqlite import SqliteSourceStore
from engine.store.stage import Stage
from schemas.identity import Volume

__all__ = ["Maps", "SqliteSourceStore", "open_store"]

log = logging.getLogger("vmferry.source")
STATE = "state.sqlite"
STAGE = "stage"
_PARTS = ("digests", "known", "prints", "unsure")


def open_store(directory: Path, stream: registry.Stream, notes: list[str]) -> SqliteSourceStore:
    """The store with a state in it: a first one, or one begun anew where it, or the map, cannot be read.

    A state begun anew has the chain of no epoch: the start that follows reads the source once for its digests, compares
    them with the replicas', and sends what differs.  Raises Newer, Full, DeviceFailed.
    """
    why = ""
    try:
        store = _loadable(directory / STATE)
        why = "it is missing" if store.empty and stream.begun else ""
    except errors.Newer:
        raise
    except errors.Damaged as damage:
        goal = database.set_aside(directory / STATE)
        why = f"{damage}; it is now {goal.name}"
        store = _loadable(directory / STATE)
    try:
        _complete(store, directory, stream, why, notes)
    except BaseException:
        store.close()
        raise
    return store


def _loadable(path: Path) -> SqliteSourceStore:
    store = SqliteSourceStore(path)
    try:
        if not store.empty:
            store.load()
    except BaseException:
        store.close()
        raise
    return store


def _complete(store: SqliteSourceStore, directory: Path, stream: registry.Stream, why: str, notes: list[str]) -> None:
    if store.empty:
        # What is staged belongs to a map that is gone: taken up, it would pass for the whole of one.
        _clear_stage(directory)
        store.commit(SourceState(stream.identity, stream.label, secrets.randbits(64)))
    else:
        lost = [name for name in _names(len(store.load().volumes)) if not (directory / name).exists()]
        if lost:
            why = f"{', '.join(lost)} of its map is missing"
            store.commit(replace(store.load(), rebuilding=True))
    if store.load().label != stream.label:
        store.commit(replace(store.load(), label=stream.label))
    if why:
        notes.append(
            f"the state of the source of {stream.label} was lost ({why}): the source is read to compare digests, and"
            " only what differs from the replica travels"
        )
        log.warning(notes[-1])


def _clear_stage(directory: Path) -> None:
    file = OsFile(directory / STAGE)
    try:
        Stage(file).clear()
    finally:
        file.close()


def _names(volumes: int) -> list[str]:
    return [f"{index}.{part}" for index in range(volumes) for part in _PARTS]


class Maps:
    """Makes the block map from the files of one directory, which stay open from one start to the next."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, OsFile] = {}
        self._scratch = scratch.in_directory(directory)

    def __call__(self, volumes: Sequence[Volume]) -> BlockMap:
        return BlockMap([self._volume(index, volume) for index, volume in enumerate(volumes)])

    def _volume(self, index: int, volume: Volume) -> VolumeMap:
        digests, known, prints, unsure = (self._file(f"{index}.{part}") for part in _PARTS)
        return VolumeMap(volume, MapFiles(digests, known, prints, unsure), self._scratch)

    def _file(self, name: str) -> OsFile:
        if name not in self._files:
            # Prints are read a window at a time while scanning: through memory, without a call for each.
            self._files[name] = OsFile(self._directory / name, mapped=name.endswith("prints"))
        return self._files[name]

    def close(self) -> None:
        """Repeatable."""
        for file in self._files.values():
            file.close()
        self._files.clear()
