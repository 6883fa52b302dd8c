"""What a tap is told to do, and what it refuses to be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine import errors
from producers.tap import order as orders
from producers.tap.order import Ack, Order

GIVEN = {
    "version": 1, "spool": "/s", "socket": "/n.sock", "control": "/c.sock", "disks": {"vda": 512}, "ack": "bus",
    "quota": 1 << 30, "limit": 0.25, "sync_every": 0.02, "first": 7, "mode": 0o600, "group": "kvm",
}  # fmt: skip


def write(path: Path, **changed: Any) -> Path:
    file = path / "order.json"
    file.write_text(json.dumps({name: value for name, value in {**GIVEN, **changed}.items() if value is not None}))
    return file


def test_an_order_is_read_as_it_was_written(tmp_path: Path) -> None:
    order = Order(
        Path("/s"), Path("/n.sock"), Path("/c.sock"), {"vda": 512}, Ack.BUS, 1 << 30, 0.25, 0.02, 7, 0o600, "kvm"
    )
    assert orders.load(write(tmp_path)) == order
    orders.save(tmp_path / "saved.json", order)
    assert orders.load(tmp_path / "saved.json") == order
    assert json.loads((tmp_path / "saved.json").read_text()) == GIVEN


def test_what_is_not_said_is_the_default(tmp_path: Path) -> None:
    order = orders.load(
        write(tmp_path, ack=None, quota=None, limit=None, sync_every=None, first=None, mode=None, group=None)
    )
    assert order == Order(Path("/s"), Path("/n.sock"), Path("/c.sock"), {"vda": 512})


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"ack": "never"}, "never"),
        ({"disks": {}}, "disks"),
        ({"disks": {"vda": 0}}, "disks"),
        ({"spool": "relative"}, "spool = relative"),
        ({"socket": "/" + "x" * 107}, "at most 107"),
        ({"control": None}, "control"),
        ({"version": None}, "version"),
        ({"acknowledge": "spool"}, "unknown: acknowledge"),
    ],
)
def test_a_wrong_order_is_refused_by_its_key(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    with pytest.raises(errors.Usage, match=named):
        orders.load(write(tmp_path, **changed))


def test_a_newer_order_is_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(errors.Newer):
        orders.load(write(tmp_path, version=2))


@pytest.mark.parametrize("text", ["", "[]", "7", "{", '{"version": "x"}'])
def test_what_is_no_order_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "order.json").write_text(text)
    with pytest.raises(errors.Usage, match="not an order"):
        orders.load(tmp_path / "order.json")
