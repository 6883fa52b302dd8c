"""Bugs to plant: each breaks one rule of the engine, and the simulator must catch it.

A plant is a function that patches the real code; `BUGS` names it, with the luck that brings it out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

Plant = Callable[[ExitStack], None]
HARD = {"crashes": 0.9, "power": 1.0, "ticks": 16, "rewinds": 0.0, "lost_stores": 0.0}


@dataclass(frozen=True)
class Bug:
    """`plant` breaks the code; `luck` overrides the plan of a seed."""

    plant: Plant
    luck: dict[str, Any] = field(default_factory=dict)


BUGS: dict[str, Bug] = {}


def bug(**luck: Any) -> Callable[[Plant], Plant]:
    """Register a plant under its function's name."""

    def take(plant: Plant) -> Plant:
        BUGS[plant.__name__] = Bug(plant, {**HARD, **luck})
        return plant

    return take


def put(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Patch until the stack is unwound."""
    stack.enter_context(mock.patch.object(owner, name, value))
