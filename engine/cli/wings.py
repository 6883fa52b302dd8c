"""The two wings by name: the engine may know that they are there, and imports neither before it is asked to."""

from __future__ import annotations

import importlib
from types import ModuleType


def producers(module: str = "site") -> ModuleType:
    """producers.MODULE."""
    return importlib.import_module(f"producers.{module}")


def consumers(module: str = "site") -> ModuleType:
    """consumers.MODULE."""
    return importlib.import_module(f"consumers.{module}")
