"""How far a long reading is: a bar on a terminal, a line now and then elsewhere, objects with --json."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from engine import units
from engine.cli import ending

_LINE_SECONDS = 3.0
_JSON_SECONDS = 1.0


class Meter:
    """Told of bytes as they are looked at, from any one thread."""

    def __init__(self, what: str, total: int, as_json: bool) -> None:
        self._what, self._total, self._json = what, total, as_json
        self._done = 0
        self._began = self._shown = time.monotonic()
        console = Console(stderr=True)
        self._bar = None if as_json or not console.is_terminal else self._start(console)

    def _start(self, console: Console) -> Progress:
        columns = (TextColumn(self._what), BarColumn(24), TextColumn("{task.fields[words]}"))
        bar = Progress(*columns, console=console, transient=True, refresh_per_second=8)
        bar.add_task("", total=max(self._total, 1), words="")
        bar.start()
        return bar

    def told(self, more: int) -> None:
        """`more` bytes are done."""
        self._done = min(self._done + more, self._total)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, words=self._words(now))
        elif now - self._shown >= (_JSON_SECONDS if self._json else _LINE_SECONDS):
            self._shown = now
            self._line(now)

    def _line(self, now: float) -> None:
        rate, left = self._speed(now)
        if self._json:
            ending.emit(
                {
                    "event": "progress", "phase": self._what, "done": self._done, "total": self._total,
                    "rate": round(rate), "seconds_left": round(left, 1),
                }
            )  # fmt: skip
        else:
            sys.stderr.write(f"{self._what}: {self._words(now)}\n")

    def _speed(self, now: float) -> tuple[float, float]:
        rate = self._done / (now - self._began) if now > self._began else 0.0
        return rate, (self._total - self._done) / rate if rate else 0.0

    def _words(self, now: float) -> str:
        rate, left = self._speed(now)
        share = 100 * self._done // max(self._total, 1)
        return (
            f"{units.shown(self._done)} of {units.shown(self._total)} ({share} %), {units.shown(rate)}/s,"
            f" {units.duration(left)} left"
        )

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
