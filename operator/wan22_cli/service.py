"""Calls to the service's HTTP API. A call that was not answered is repeated for a time: every one is safe to repeat."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from wan22_cli.output import Json
from wan22_cli.problems import Exit, Problem

REPEATED = {408, 425, 429, 500, 502, 503, 504}
"""Statuses after which the same call may succeed. A full queue is one of them."""
POLL_SECONDS = 1.0
PAUSE_SECONDS = 1.0
"""Time to the next try, unless the answer's Retry-After names another."""
MOST_PAUSE_SECONDS = 30.0
TIMEOUT = httpx.Timeout(30, connect=5)
NEAR = ("all://127.0.0.1", "all://localhost", "all://[::1]")
"""Addresses to which no proxy of the environment leads: a port-forward, or a service on this machine."""
ENDED = ("succeeded", "failed", "cancelled")


class UnreachableError(Exception):
    """There is no way to the service at the moment; the message says why."""


class Address(Protocol):
    """Where the service is."""

    def url(self) -> str:
        """Return the URL to call now.

        Raises:
            UnreachableError: there is none at the moment.
        """

    def renew(self) -> None:
        """Take another way to the service, since the last one failed."""

    def close(self) -> None:
        """Release what the way needs."""


class Url:
    """A URL that the user gave."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def url(self) -> str:
        """Return the URL."""
        return self._url

    def renew(self) -> None:
        """Do nothing: there is only one way."""

    def close(self) -> None:
        """Do nothing: nothing is open."""


class Service:
    """One service.

    Args:
        address: where it is.
        remedy: what the user can do if it does not answer.
        usage: a command of this program as it is typed, with ``{}`` for the command's name and arguments.
    """

    def __init__(self, address: Address, remedy: str, usage: str) -> None:
        self._usage = usage
        self._address = address
        self._remedy = remedy
        self._http = httpx.Client(timeout=TIMEOUT, follow_redirects=True, mounts=dict.fromkeys(NEAR))
        self._answered = False

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._address.close()

    def call(
        self,
        verb: str,
        path: str,
        *,
        patience: float = 0,
        tell: Callable[[str], None] = lambda _: None,
        into: Path | None = None,
        accept: tuple[int, ...] = (),
        **content: Any,
    ) -> httpx.Response:
        """Return the answer to one call.

        Args:
            verb: the HTTP method.
            path: the path below the service's URL.
            patience: seconds for which the call is repeated while the service does not answer or answers with 503.
            tell: called with the reason of each repetition.
            into: the file for the body of an answer 200.
            accept: statuses that are no error here.
            content: what httpx takes: json, data, files, params.

        Raises:
            Problem: the service does not answer, or with an error.
        """
        deadline = time.monotonic() + patience
        while True:
            pause = PAUSE_SECONDS
            try:
                response = self._try(verb, path, into, content)
            except (httpx.TransportError, UnreachableError) as error:
                self._address.renew()
                why = f"{error or type(error).__name__}."
                problem = Problem(Exit.SILENT, f"{why} {self._remedy}", "no_answer")
            except httpx.InvalidURL as error:
                raise Problem(Exit.REFUSED, f"this is no URL: {error}. {self._remedy}") from None
            else:
                if response.is_success or response.status_code in accept:
                    self._answered = True
                    return response
                problem = self._problem(response)
                if problem.status != Exit.SILENT:
                    raise problem
                why = str(problem).removesuffix(self._remedy).rstrip()
                pause = _retry_after(response) or pause
            if time.monotonic() + pause > deadline:
                raise problem
            tell(f"{why} Trying again.")
            time.sleep(pause)

    def _try(self, verb: str, path: str, into: Path | None, content: Json) -> httpx.Response:
        url = self._address.url()
        try:
            with self._http.stream(verb, f"{url}{path}", **content) as response:
                if into is None or response.status_code != 200:
                    response.read()
                else:
                    with into.open("wb") as file:
                        for chunk in response.iter_bytes():
                            file.write(chunk)
                return response
        except httpx.TransportError as error:
            raise UnreachableError(f"{url} does not answer ({error or type(error).__name__})") from None

    def _problem(self, response: httpx.Response) -> Problem:
        """Return what an error answer means."""
        try:
            error = dict(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            return self._foreign(response)
        self._answered = True
        code, message = str(error.pop("code", "error")), str(error.pop("message", response.text))
        status = Exit.REFUSED
        if response.status_code in (404, 410):
            status = Exit.MISSING
        elif response.status_code in REPEATED:
            status = Exit.SILENT
        return Problem(status, message, code, **error)

    def _foreign(self, response: httpx.Response) -> Problem:
        """Return the problem with an answer that is not the service's own."""
        text = " ".join(response.text.split())[:200]
        found = f"{response.url} answered {response.status_code} {text!r}"
        # While the service starts, Serve's proxy knows none of its paths.
        if response.status_code in REPEATED or (response.status_code == 404 and self._answered):
            return Problem(Exit.SILENT, f"{found}, which is not the service's answer. {self._remedy}", "no_answer")
        return Problem(Exit.REFUSED, f"{found}; there is no wan22 service at this URL. {self._remedy}", "not_wan22")

    def task(self, task_id: str, **options: Any) -> Json:
        """Return a task."""
        return _object(self.call("GET", _path(task_id), **options))

    def submit(self, body: Json, image: Path | None, **options: Any) -> Json:
        """Submit a request, which names its task; a repeated one finds the task that exists."""
        if image is None:
            return _object(self.call("POST", "/generate", json=body, **options))
        form = {name: str(value) for name, value in body.items()}
        files = {"image": (image.name, image.read_bytes())}
        return _object(self.call("POST", "/generate", data=form, files=files, **options))

    def delete(self, task_id: str) -> Json:
        """Cancel a task that has not ended; delete one that has ended."""
        return _object(self.call("DELETE", _path(task_id)))

    def follow(self, task: Json, seconds: float | None, **options: Any) -> Iterator[Json]:
        """Yield the task again and again until it has ended.

        Raises:
            Problem: it has not ended after ``seconds``; it goes on.
        """
        deadline = time.monotonic() + seconds if seconds is not None else float("inf")
        while True:
            yield task
            if task["status"] in ENDED:
                return
            if time.monotonic() > deadline:
                message = f"Task {task['task_id']} is {task['status']} after {seconds:g} s (--timeout)."
                raise Problem(Exit.SILENT, f"{message} {self.goes_on(task['task_id'])}", "timeout")
            time.sleep(POLL_SECONDS)
            task = self.task(task["task_id"], **options)

    def goes_on(self, task_id: str) -> str:
        """Return what the user can do with a task that is no longer followed."""
        wait, stop = (self._usage.format(f"{words} {task_id}") for words in ("download --wait", "cancel"))
        return f"It goes on: `{wait}` waits for its video, `{stop}` stops it."

    def download(self, task_id: str, file: Path, **options: Any) -> None:
        """Write a task's video to a file, which exists only once it is whole.

        Raises:
            Problem: the task has no video, or the file cannot be written.
        """
        # A pipe or a device cannot be replaced.
        part = file if file.exists() and not file.is_file() else file.with_name(f"{file.name}.part")
        try:
            answer = self.call("GET", f"{_path(task_id)}/video", into=part, accept=(409,), **options)
            if answer.status_code == 409:
                raise Problem(Exit.NO, self._problem(answer).args[0], "no_video")
            if part != file:
                part.replace(file)
        except OSError as error:
            raise Problem(Exit.REFUSED, f"{file} cannot be written: {error.strerror or error}.") from None
        finally:
            if part != file:
                part.unlink(missing_ok=True)

    def tasks(self, status: str | None, limit: int) -> Json:
        """Return a page of the newest ``limit`` tasks, read in as many pages as it needs."""
        found: list[Json] = []
        cursor: str | None = None
        while True:
            asked = {"status": status, "cursor": cursor, "limit": min(200, limit - len(found))}
            params = {name: value for name, value in asked.items() if value is not None}
            page = _object(self.call("GET", "/generate", params=params))
            found += page["tasks"]
            cursor = page["cursor"]
            if cursor is None or len(found) >= limit:
                return {"tasks": found, "cursor": cursor}

    def readiness(self) -> Json:
        """Return what ``/readyz`` says, whether the service is ready or not."""
        answer = self.call("GET", "/readyz", accept=(503,))
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict) or "ready" not in found:
            raise self._problem(answer)
        return found


def _path(task_id: str) -> str:
    if not task_id.strip("."):
        # These are paths to something else.
        raise Problem(Exit.MISSING, f"There is no task {task_id!r}.", "not_found")
    return f"/generate/{quote(task_id, safe='')}"


def _object(response: httpx.Response) -> Json:
    try:
        value = response.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        message = f"{response.url} answered {response.status_code} without JSON; is this the URL of a wan22 service?"
        raise Problem(Exit.REFUSED, message, "not_wan22")
    return value


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), MOST_PAUSE_SECONDS) if text.isdigit() else 0.0
