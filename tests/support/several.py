"""Two sites with a stream of several disks: each disk, its replica, and whether all of them are equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.daemons import Sites
from tests.support.ferry import MEBI, copied, image, same

UUID = "0e2c1b7a-58a3-4c1c-9d36-7d2a7a1f0d01"
SIZES = {"vda": 8 * MEBI, "vdb": 4 * MEBI, "vdc": 2 * MEBI}


class Several:
    """The stream "web" of two sites, which is made of `disks`."""

    def __init__(self, sites: Sites, *disks: str, **settings: Any) -> None:
        self.sites, self._settings = sites, {"id": UUID, **settings}
        self.disks: dict[str, str] = {}
        for name in disks:
            self.plug(name)
        self.write()

    def plug(self, name: str) -> Path:
        """One more disk, full of random bytes, for the config; `write` or `reload` brings it there."""
        path = image(self.disk(name), SIZES[name], seed=1000 + len(self.disks))
        self.disks[name] = str(path)
        return path

    def write(self) -> None:
        self.sites.source.config["streams"]["web"] = {**self._settings, "disks": self.disks}
        self.sites.source.write()

    def reload(self) -> None:
        """The source's daemon has the disks as they are here now."""
        self.write()
        assert self.sites.source.reload()["problems"] == []

    def disk(self, name: str) -> Path:
        return self.sites.disk("web" if name == "vda" else f"web-{name}")

    def replica(self, name: str) -> Path:
        return self.sites.replica("web" if name == "vda" else f"web-{name}")

    def same(self, *names: str) -> bool:
        """Whether the replicas of these disks, or of all, are equal to them."""
        chosen = names or self.disks
        return all(self.replica(name).exists() and same(self.disk(name), self.replica(name)) for name in chosen)

    def copies(self) -> dict[str, Path]:
        """What the disks are now."""
        return {name: copied(self.disk(name), "before") for name in self.disks}

    def equal(self, copies: dict[str, Path]) -> set[str]:
        """Whose replicas are what the disks were."""
        return {name for name, copy in copies.items() if same(copy, self.replica(name))}

    def told(self) -> list[tuple[str, str, int | None]]:
        """The disks as the target's status has them."""
        return [(one["name"], one["path"], one["size"]) for one in self.sites.target.stream()["disks"]]
