"""Sizes, rates and durations as people write them, and back.  Pure."""

from __future__ import annotations

import re

from engine import errors

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?(?:/s)?", re.IGNORECASE)
_TIMES = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)", re.IGNORECASE)
_NAMES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(text: str) -> int:
    """Bytes in "512", "64K", "1.5G", "20MiB/s"; K is 1,024.  Raises Usage."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise errors.Usage(f"{text!r} is no size: a number and one of K, M, G, T, as in 64K or 1.5G")
    return int(float(found[1]) * _SIZES[found[2].lower()])


def rate(text: str) -> int:
    """Bytes per second in "20M"; "off" and "0" are no limit, 0.  Raises Usage."""
    return 0 if text.strip().lower() in {"off", "none"} else size(text)


def seconds(text: str) -> float:
    """Seconds in "30s", "5m", "250ms", "1.5h".  Raises Usage."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise errors.Usage(f"{text!r} is no duration: a number and one of ms, s, m, h, d, as in 30s")
    return float(found[1]) * _TIMES[found[2].lower()]


def shown(amount: float) -> str:
    """Bytes for people: three digits and a unit of 1,024s."""
    for name in _NAMES[:-1]:
        if abs(amount) < 1000:
            return f"{amount:.0f} {name}" if name == "B" or amount >= 100 else f"{amount:.3g} {name}"
        amount /= 1024
    return f"{amount:.3g} {_NAMES[-1]}"


def duration(amount: float) -> str:
    """Seconds for people: "0.42 s", "41 s", "3 min 05 s", "2 h 10 min"."""
    if amount < 100:
        return f"{amount:.2g} s" if amount < 10 else f"{amount:.0f} s"
    minutes, rest = divmod(round(amount), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
