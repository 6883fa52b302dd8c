"""`vmferry protect` and `unprotect`: a machine becomes a stream by one command, and leaves nothing behind by another.

What was asked is kept as a fragment of the source's config, below the daemon's state: the same words, and
the same messages.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import errors, linux, places, units
from engine.cli import kept
from engine.daemon import config
from engine.daemon.daemon import Answer, Request, text
from engine.hypervisor.domain import Domain
from producers import leave
from producers.machine.source import TRACKED
from schemas import control

if TYPE_CHECKING:
    from producers.daemon import SourceDaemon

REFUSED = (
    "while a pass is under way libvirt refuses to migrate or save it, to resize or detach a disk, and another backup:"
    " `vmferry pause` ends the pass and takes checkpoints away, `vmferry resume` goes on and reads everything once"
)

REVERT = (
    "QEMU 7.2 does not start from an internal snapshot of a disk that a checkpoint counts in: `virsh snapshot-revert`"
    " fails and leaves the machine off; `vmferry pause` first, and `vmferry resume` afterwards"
)


class Protecting:
    """The requests of one source daemon about machines."""

    def __init__(self, daemon: SourceDaemon) -> None:
        self._daemon = daemon
        self._folder = config.protected(daemon.where.root)

    def requests(self) -> dict[str, Callable[[Request], Awaitable[Answer]]]:
        return {"protect": self._protect, "unprotect": self._unprotect}

    async def _protect(self, asked: Request) -> Answer:
        """Take a machine in, or change how it is captured.  Raises NotFound, Usage (no disk; the config has it)."""
        domain = await (await self._daemon.machines.hypervisor()).domain(text(asked, "machine"))
        path = self._folder / f"{domain.uuid}.toml"
        self._refuse_named(domain, str(path))
        exclude = [str(one) for one in asked.get("exclude") or ()]
        if unknown := set(exclude) - {disk.name for disk in domain.disks}:
            raise errors.Usage(f"{domain.name} has no disk {', '.join(sorted(unknown))}")
        disks = [_disk(one, exclude) for one in domain.disks]
        if not any(not one["excluded"] for one in disks):
            reasons = ", ".join(f"{one['name']}: {one['excluded']}" for one in disks)
            raise errors.Usage(f"{domain.name} has no disk that can be captured ({reasons or 'it has none'})")
        said: Answer = {
            "stream": domain.uuid, "label": domain.name, "disks": disks, "warnings": _warnings(domain, disks, asked),
            "fragment": str(path), "dry_run": bool(asked.get("dry_run")),
        }  # fmt: skip
        fragment = _fragment(domain, exclude, asked)
        await asyncio.to_thread(self._refuse_wrong, path.name, fragment)
        if not said["dry_run"]:
            places.make(self._folder)
            linux.replace_text(path, fragment)
            await self._daemon.reload()
        return said

    def _refuse_wrong(self, name: str, fragment: str) -> None:
        """Read the config with the fragment in it, before anything is changed: a machine that is protected stays so.
        Raises Usage for what is wrong with it."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_text(fragment)
            problems = config.load(self._daemon.common.file, "source", Path(folder)).problems
        if wrong := [one.replace(folder, str(self._folder)) for one in problems if one.startswith(folder)]:
            raise errors.Usage("; ".join(wrong))

    def _refuse_named(self, domain: Domain, path: str) -> None:
        for one in self._daemon.served.values():
            ours = one.config.vm in (domain.name, domain.uuid) or (one.record and one.record.stream == domain.uuid)
            if not one.config.where.startswith(path) and (ours or one.config.name == domain.name):
                raise errors.Usage(f"{domain.name} stands at {one.config.where}: change it there, and reload")

    async def _unprotect(self, asked: Request) -> Answer:
        """Let a machine go: no checkpoint, bitmap, job, mark or file of ours stays with it.

        In this order: its job ends, the machine is cleaned, the fragment goes, and the stream is forgotten.  Killed
        before the fragment goes, it is protected still; behind that, what `purge` would have removed is removed by
        `vmferry forget --purge`.  Where the machine cannot be cleaned it stays protected.
        """
        one = self._daemon.find(text(asked, "machine"))
        path = self._folder / f"{one.record.stream if one.record else ''}.toml"
        if not one.config.vm or not path.exists():
            raise errors.Usage(f"{one.config.name} stands at {one.config.where}: take it out of there, and reload")
        record = one.record
        assert record is not None
        await one.job.stop(self._daemon.common.drain)
        try:
            left = await self._daemon.machines.let_go(record.stream)
        except errors.FerryError:
            await self._daemon.again(one)
            raise
        path.unlink()
        linux.sync_directory(str(self._folder))
        await self._daemon.reload()
        gone = control.Present(self._daemon.common.site, record.label, (), 0, 0, time.time_ns(), gone=True)
        self._daemon.gone[record.identity] = gone
        self._daemon.announcer.news(record.identity)
        purge = bool(asked.get("purge"))
        stays = await leave.forget(self._daemon.where, record, self._daemon.bus, purge)
        return kept.forgotten(record, stays, left, purge)


def _disk(disk: Any, exclude: list[str]) -> Answer:
    return {
        "name": disk.name, "path": disk.path, "format": disk.format, "size": disk.size,
        "excluded": disk.excluded or ("excluded by you" if disk.name in exclude else ""),
    }  # fmt: skip


def _warnings(domain: Domain, disks: list[Answer], asked: Request) -> list[str]:
    """What its owner must know."""
    found = [f"{one['name']} is not captured: {one['excluded']}" for one in disks if one["excluded"]]
    found += [
        f"{one['name']} is {one['format']}, and no checkpoint can be kept in it: every pass reads all of it"
        for one in disks if not one["excluded"] and one["format"] not in TRACKED
    ]  # fmt: skip
    if domain.tpm:
        found.append("the state of its TPM is not captured: what it has sealed cannot be opened from the replica")
    if asked.get("freeze") and not domain.agent:
        found.append("it has no channel for a guest agent: its cuts are those of a power cut, not frozen ones")
    return [*found, REFUSED, *([] if asked.get("mode") == "scan" else [REVERT])]


def _fragment(domain: Domain, exclude: list[str], asked: Request) -> str:
    """As somebody would write it by hand.  JSON's texts are TOML's."""
    values: dict[str, Any] = {"vm": domain.uuid, "mode": text(asked, "mode"), "freeze": bool(asked.get("freeze"))}
    values |= {"exclude": exclude} if exclude else {}
    values |= {"every": str(asked["every"])} if asked.get("every") else {}
    units.seconds(values.get("every", "30s"))
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    head = f"# {domain.name}, by `vmferry protect`; `vmferry unprotect` removes it."
    return "\n".join([head, f"[streams.{json.dumps(domain.name)}]", *lines]) + "\n"
