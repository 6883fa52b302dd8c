"""A guest that two daemons protect: what an operator sees of it, and what its replica holds."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.daemons import Sites
from tests.support.ferry import until
from tests.support.hypervisor import Libvirtd
from tests.support.live.vm import Vm

NAME = "web"
PATIENCE = 180.0
"""Seconds: a guest under TCG, two daemons and their tests share few cores."""


class Protected:
    """The stream "web" of the guest `vm`; both daemons run.  Its log keeps what was said of it."""

    def __init__(self, sites: Sites, vm: Vm) -> None:
        self.sites, self.vm = sites, vm
        self.found: list[str] = []
        "What `equal` saw last."

    def replica(self, disk: str) -> Path:
        """Where a disk's replica is: the first one's is called as the stream."""
        first = disk == next(iter(self.vm.disks))
        return self.sites.replicas / (f"site-a-{NAME}.img" if first else f"site-a-{NAME}-{disk}.img")

    def source(self) -> dict[str, Any]:
        """What the source's status says."""
        return self.sites.source.stream(NAME)

    def usable(self) -> int:
        """The last epoch that can be used at the target; 0: none."""
        return int(self.sites.target.stream(NAME).get("usable_epoch") or 0)

    def wait(self, what: Callable[[], object]) -> None:
        """Until `what()`.  Raises AssertionError with the end of the source's log."""
        try:
            until(what, PATIENCE)
        except AssertionError as why:
            why.add_note(f"{self.source()}\n{self.sites.source.tail()}")
            why.add_note(f"{self.found}")
            raise

    def further(self) -> None:
        """Two epochs that can be used come after this call: the later one was begun after it."""
        epoch = self.usable()
        self.wait(lambda: self.usable() > epoch + 1)

    def captured(self, rung: str) -> None:
        """Wait until it is captured by this rung, and an epoch by it can be used."""
        self.wait(lambda: self.source().get("rung") == rung)
        self.further()

    def troubled(self, *words: str) -> str:
        """Wait until its state is trouble, and each of `words` is among what is told; gives that."""
        told = ""

        def there() -> bool:
            nonlocal told
            said = self.source()
            told = said.get("why", "")
            return said.get("state") == "trouble" and all(word in told for word in words)

        self.wait(there)
        return told

    def epochs(self) -> dict[str, Any]:
        """What `vmferry epochs` says at the target."""
        return self.sites.target.ferry.told("epochs", NAME)

    def stepped(self) -> list[tuple[str, str]]:
        """(rung, reason) of each step that the log has, oldest first."""
        return [(one["rung"], one["reason"]) for one in self.epochs()["stepped"]]

    def equal(self) -> bool:
        """Whether the replicas are the disks of a machine that is off, as `qemu-img compare` sees them: it needs a
        target that lets go of them."""
        self.sites.target.stop()
        self.found = [self.differing(disk) for disk in self.vm.disks]
        self.sites.target.start()
        return not any(self.found)

    def differing(self, disk: str) -> str:
        """What `qemu-img compare` says against it; nothing where they are equal."""
        done = subprocess.run(
            ["qemu-img", "compare", "-F", "raw", self.vm.disks[disk], self.replica(disk)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return (done.stdout + done.stderr) if done.returncode else ""

    def ends_equal(self) -> None:
        """The guest is shut down, and every replica becomes its disk, byte by byte."""
        self.vm.shut_down()
        self.wait(lambda: self.source().get("rung_why") == "it does not run")
        self.wait(self.sites.proved(NAME))
        self.wait(self.equal)


@contextmanager
def protected(
    libvirtd: Libvirtd, vm: Vm, home: Path, scratch: Path | None = None, **settings: Any
) -> Iterator[Protected]:
    """`vm` is protected by two daemons, with the `settings` of its stream."""
    sites = Sites(home, every="1s")
    sites.source.config |= {"hypervisor": libvirtd.uri, "scratch": str(scratch or libvirtd.folder / "scratch")}
    sites.source.config["streams"][NAME] = {"vm": vm.name, "keep": "1d", **settings}
    sites.source.write()
    try:
        yield Protected(sites.start(), vm)
    finally:
        sites.stop()
