"""Clients who go on asking for videos while something happens to the release."""

import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

import httpx

from testing.control_plane.api import Json
from testing.release import Release

SMALL = {"num_inference_steps": 1, "num_frames": 5, "width": 64, "height": 64}


class _Clients(ABC):
    """Ask again and again, from threads, for as long as the ``with`` block lasts."""

    def __init__(self, clients: Sequence[httpx.Client], every: float) -> None:
        self.refused: list[str] = []
        self._every = every
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(client,), daemon=True) for client in clients]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: httpx.Client) -> None:
        for number in itertools.count(1):
            if self._done.wait(self._every):
                return
            try:
                refusal = self._ask(client, number)
            except httpx.HTTPError as error:
                refusal = repr(error)
            if refusal:
                self.refused.append(f"{datetime.now():%X}, request {number}: {refusal}")

    @abstractmethod
    def _ask(self, client: httpx.Client, number: int) -> str:
        """Ask once; return what was wrong with the answer, if anything."""


class Stream(_Clients):
    """Submits a small task again and again."""

    def __init__(self, release: Release, name: str, every: float = 1.0) -> None:
        super().__init__([release.http], every)
        self.release, self.name = release, name
        self.accepted: list[str] = []

    def ends(self) -> list[Json]:
        """Return every accepted task once it ended."""
        return [self.release.wait_for_end(task_id) for task_id in self.accepted]

    def _ask(self, client: httpx.Client, number: int) -> str:
        task_id = f"{self.name}-{number}"
        reply = client.post("/generate", json={"task_id": task_id, "seed": 1} | SMALL)
        if reply.status_code != 202:
            return _said(reply)
        self.accepted.append(task_id)
        return ""


class Crowd(_Clients):
    """Looks at the list of tasks, many clients at once.

    An answer takes milliseconds, so a pod that goes in the wrong order cuts one off only if many are under way.
    """

    def __init__(self, release: Release, clients: int = 4, every: float = 0.1) -> None:
        super().__init__([release.client() for _ in range(clients)], every)
        self.answered = 0

    def _run(self, client: httpx.Client) -> None:
        with client:
            super()._run(client)

    def _ask(self, client: httpx.Client, number: int) -> str:
        reply = client.get("/generate?limit=1")
        if reply.status_code != 200:
            return _said(reply)
        self.answered += 1
        return ""


def _said(reply: httpx.Response) -> str:
    return f"{reply.status_code} {reply.text[:200]}"


def assert_all_succeeded(tasks: list[Json], attempt: int | None = None) -> None:
    """Fail with the tasks that did not succeed, or not in that attempt."""
    wrong = [task for task in tasks if task["status"] != "succeeded" or attempt not in (None, task["attempt"])]
    assert tasks
    assert not wrong, wrong
