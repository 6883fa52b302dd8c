"""What a run shows on a terminal."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn

from engine.cli.replication import Numbers
from engine.cli.view import Speed, amounts


class Bar:
    """A bar on the terminal, on stderr."""

    def __init__(self, console: Console) -> None:
        self._speed = Speed()
        self._progress = Progress(
            TextColumn("{task.fields[phase]:<9}"), BarColumn(24), TextColumn("{task.fields[words]}"),
            console=console, transient=True, refresh_per_second=8,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=None, phase="opening", words="")
        self._progress.start()

    def show(self, numbers: Numbers) -> None:
        rate, left = self._speed.take(numbers)
        self._progress.update(
            self._task, total=max(1, numbers.total) if numbers.phase != "opening" else None,
            completed=min(numbers.read, numbers.total), phase=numbers.phase, words=amounts(numbers, rate, left),
        )  # fmt: skip

    def close(self) -> None:
        self._progress.stop()


def make() -> tuple[logging.Handler, Bar]:
    """A handler of the log, and the bar beneath its lines."""
    console = Console(stderr=True)
    return RichHandler(console=console, show_time=False, show_path=False, show_level=True), Bar(console)
