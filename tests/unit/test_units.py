"""Sizes, rates and durations as people write them."""

from __future__ import annotations

import pytest

from engine import errors, units


@pytest.mark.parametrize(
    ("text", "amount"),
    [("512", 512), ("64K", 65536), ("64k", 65536), ("1.5G", 3 << 29), ("20MiB/s", 20 << 20), ("2 TB", 2 << 40)],
)
def test_sizes(text: str, amount: int) -> None:
    assert units.size(text) == amount


@pytest.mark.parametrize(("text", "amount"), [("off", 0), ("none", 0), ("0", 0), ("20M", 20 << 20)])
def test_rates(text: str, amount: int) -> None:
    assert units.rate(text) == amount


@pytest.mark.parametrize(("text", "amount"), [("30s", 30), ("250ms", 0.25), ("5m", 300), ("1.5h", 5400), ("2", 2)])
def test_durations(text: str, amount: float) -> None:
    assert units.seconds(text) == amount


@pytest.mark.parametrize("text", ["", "-1", "1X", "fast", "1 2"])
def test_what_is_neither_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(errors.Usage, match="as in 64K"):
        units.size(text)
    with pytest.raises(errors.Usage, match="as in 30s"):
        units.seconds(text)


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0 B"), (999, "999 B"), (1024, "1 KiB"), (1 << 30, "1 GiB"), (3 << 39, "1.5 TiB")]
)
def test_amounts_are_shown_with_three_digits(amount: int, text: str) -> None:
    assert units.shown(amount) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(0.42, "0.42 s"), (41, "41 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_times_are_shown_as_people_say_them(amount: float, text: str) -> None:
    assert units.duration(amount) == text
