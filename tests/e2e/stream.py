"""Clients who go on asking for videos while something happens to the release."""

import threading
from datetime import datetime
from types import TracebackType

import httpx

from tests.control_plane.api import Json
from tests.e2e.release import Release

SMALL = {"num_inference_steps": 1, "num_frames": 5, "width": 64, "height": 64}


class Stream:
    """Submits a small task again and again, from a thread, for as long as the ``with`` block lasts."""

    def __init__(self, release: Release, name: str, every: float = 1.0) -> None:
        self.release, self.name, self.every = release, name, every
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._done.wait(self.every):
            number += 1
            task_id = f"{self.name}-{number}"
            try:
                reply = self.release.http.post("/generate", json={"task_id": task_id, "seed": 1} | SMALL)
            except httpx.HTTPError as error:
                self.refused.append(f"{task_id}: {error!r}")
                continue
            if reply.status_code == 202:
                self.accepted.append(task_id)
            else:
                self.refused.append(f"{task_id}: {reply.status_code} {reply.text[:200]}")

    def ends(self) -> list[Json]:
        """Return every accepted task once it ended."""
        return [self.release.wait_for_end(task_id) for task_id in self.accepted]


class Crowd:
    """Looks at the list of tasks again and again, many clients at once, for as long as the ``with`` block lasts.

    An answer takes milliseconds, so a pod that goes in the wrong order cuts one off only if many are under way.
    """

    def __init__(self, release: Release, clients: int = 4, every: float = 0.1) -> None:
        self.every = every
        self.answered = 0
        self.refused: list[str] = []
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(release.client(),), daemon=True) for _ in range(clients)
        ]

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: httpx.Client) -> None:
        with client:
            while not self._done.wait(self.every):
                try:
                    reply = client.get("/generate?limit=1")
                except httpx.HTTPError as error:
                    self.refused.append(f"{datetime.now():%X}: {error!r}")
                    continue
                if reply.status_code == 200:
                    self.answered += 1
                else:
                    self.refused.append(f"{datetime.now():%X}: {reply.status_code} {reply.text[:200]}")


def assert_all_succeeded(tasks: list[Json], attempt: int | None = None) -> None:
    """Fail with the tasks that did not succeed, or not in that attempt."""
    wrong = [task for task in tasks if task["status"] != "succeeded" or attempt not in (None, task["attempt"])]
    assert tasks
    assert not wrong, wrong
