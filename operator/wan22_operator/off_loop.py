"""Runs what reads users' texts in threads of their own, with a deadline, so that no text holds up the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

SECONDS = 2.0
"""How long one text may take. The API server waits 3 s for a webhook."""
# Not the loop's own threads, which name resolution may occupy.
_THREADS = ThreadPoolExecutor(4, thread_name_prefix="off-loop")


async def off_loop(work: Callable[..., T], *arguments: object) -> T:
    """Return ``work(*arguments)``, run in a thread.

    Raises:
        TimeoutError: it took longer than ``SECONDS``; the message says so.
    """
    running = asyncio.get_running_loop().run_in_executor(_THREADS, lambda: work(*arguments))
    try:
        async with asyncio.timeout(SECONDS):
            return await running
    except TimeoutError:
        raise TimeoutError(
            f"reading serveConfigV2 took longer than {SECONDS:g} s; make it shorter, or give the operator more CPU"
        ) from None
