"""Waiting for a condition, with a deadline: the one place where a test may let time pass."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def until(what: str, condition: Callable[[], T | None], seconds: float = 30, every: float = 0.05) -> T:
    """Return the first true value of ``condition``; fail after ``seconds`` with ``what`` and the last value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}; last seen: {value!r}")
        time.sleep(every)


async def turn() -> None:
    """Let every other task of the event loop go on to its next wait; no time passes."""
    await asyncio.sleep(0)


async def until_async(
    what: str, condition: Callable[[], Awaitable[T | None]], seconds: float = 30, every: float = 0.01
) -> T:
    """Do as ``until``, while other tasks of the event loop go on."""
    deadline = time.monotonic() + seconds
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}; last seen: {value!r}")
        await asyncio.sleep(every)
