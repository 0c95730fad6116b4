"""Waiting for a condition, with a deadline: the one place where a test may let time pass."""

import time
from collections.abc import Callable
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
