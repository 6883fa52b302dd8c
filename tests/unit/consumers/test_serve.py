"""What a replica of a daemon makes of its source's words."""

from __future__ import annotations

import asyncio
from pathlib import Path

from consumers import site
from consumers.serve import Replica
from engine import places, registry
from engine.daemon import presence
from schemas.control import Present
from schemas.identity import Volume
from tests.support.sim.loop import virtual

SAID = Present("ams", "web", (Volume("vda", 4096, 512),), 1, 0, 0)


def replica(home: Path) -> Replica:
    disk = registry.Disk("vda", str(home / "web.img"), "", 512)
    stream = registry.Stream("6f1c0d5e-0000-4000-8000-000000000001", "web", "log:/none", (disk,))
    record = registry.Replica("ab" * 16, stream.stream, stream.bus, (disk,))
    return Replica(places.Places(home), stream, record, site.Options())


@virtual
async def test_what_is_lacking_is_asked_for_at_once_when_its_source_comes_or_comes_back(tmp_path: Path) -> None:
    one, came = replica(tmp_path), list[bool]()
    for pause, late in ((0.0, None), (1.0, 0.0), (presence.EVERY, 0.0), (2 * presence.EVERY + 1, 0.0)):
        await asyncio.sleep(pause)
        one.hear(SAID, late)
        came.append(one.came)
        one.came = False
    assert came == [False, True, False, True]
