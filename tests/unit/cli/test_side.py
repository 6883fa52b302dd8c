"""A side in a thread of its own ends as it was told to, or says what ended it."""

from __future__ import annotations

import asyncio

import pytest

from engine import errors
from engine.cli.side import Side


async def _waits() -> None:
    await asyncio.Event().wait()


async def _cancels_itself() -> None:
    raise asyncio.CancelledError


async def _fails() -> None:
    raise errors.Full("no room")


def test_a_side_that_is_cancelled_ends_without_an_error() -> None:
    side = Side("source", _waits)
    side.start()
    side.cancel()
    assert side.join(10)
    assert side.error is None


def test_a_side_that_is_cancelled_before_it_begins_never_does() -> None:
    side = Side("source", _fails)
    side.cancel()
    side.start()
    assert side.join(10)
    assert side.error is None


def test_what_ends_a_side_is_kept_for_whoever_looks() -> None:
    side = Side("source", _fails)
    side.start()
    assert side.join(10)
    assert isinstance(side.error, errors.Full)


def test_a_cancellation_that_nobody_asked_for_is_trouble_and_no_orderly_end() -> None:
    side = Side("target", _cancels_itself)
    side.start()
    assert side.join(10)
    with pytest.raises(errors.Transient, match="the target side was cancelled by something that it waited for"):
        raise side.error or AssertionError
