"""What every request passes before its route: the limit of its body, CORS and the age of its connection."""

import asyncio
from collections.abc import Callable, Collection

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.errors import problem
from app.media import images

MAX_BODY_BYTES = 200 * 1024
"""The largest body without its image: two prompts of 8,000 characters, each of up to 12 bytes (JSON's escape of a
character beyond 16 bits, such as an emoji), and 12 KiB for the other fields."""
MAX_IMAGE_BODY_BYTES = MAX_BODY_BYTES + (images.MAX_BYTES + 3) * 4 // 3
"""The largest body with an image in base64."""
MAX_BODY_SECONDS = 30.0
"""How long a body may take to arrive."""
MAX_ARRIVING_BODIES = 500
"""Bodies on their way to one replica; below the 1000 requests at a time that Serve passes on to it
(app/serve_app.py), so that others are still answered."""
MAX_CONNECTION_SECONDS = 2.0
"""Age from which a connection is closed with its next answer; well below the time for which a stopping pod still
answers (`worker.drainSeconds`)."""
_FORGET_CONNECTION_SECONDS = 60.0
_EXPOSED = ["Location", "Retry-After", "ETag", "Accept-Ranges", "Content-Range", "openai-poll-after-ms"]
"""Headers of an answer that a page of another origin may read, besides those that every page may."""


def too_large(most: int, part: str = "The body") -> str:
    """Return the message of an answer 413."""
    return f"{part} is too large: at most {most} bytes are allowed. Send a shorter one."


def root_path(scope: Scope) -> str:
    """Return the route prefix under which the application is served, without a slash at its end."""
    return str(scope.get("root_path", "")).rstrip("/")


class BodyLimit:
    """Refuses bodies that are larger than any request can be, whatever their headers declare.

    Args:
        app: the application behind this middleware.
        image_paths: the only paths whose POST may carry an image, without the route prefix.
    """

    def __init__(self, app: ASGIApp, image_paths: Collection[str]) -> None:
        self._app = app
        self._image_paths = image_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The other fields of a body with an image are bounded when the body is read.
        takes_image = scope["method"] == "POST" and scope["path"].removeprefix(root_path(scope)) in self._image_paths
        most = MAX_IMAGE_BODY_BYTES if takes_image else MAX_BODY_BYTES
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            await problem(413, too_large(most))(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise HTTPException(413, too_large(most))
            return message

        await self._app(scope, counted, send)


class BodyDeadline:
    """Bounds the time and the number of bodies that have not arrived in full, so that slow clients block nobody else.

    Serve passes on at most ``max_ongoing_requests`` requests of a replica at a time: without these bounds, clients that
    send their bodies byte by byte would keep everything from being answered, health included.

    Args:
        app: the application behind this middleware.
        seconds: how long the body of a POST may take; then the request is answered 408.
        most: how many bodies may be on their way at a time; one more is answered 503.
    """

    def __init__(self, app: ASGIApp, seconds: float, most: int) -> None:
        self._app = app
        self._seconds = seconds
        self._most = most
        self._arriving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Only a POST has a body that is read.
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._arriving >= self._most:
            message = f"The bodies of {self._most} other requests are arriving, as many as may. Try again in 5 seconds."
            headers = {"Retry-After": "5", "Connection": "close"}
            await problem(503, message, headers=headers)(scope, receive, send)
            return
        ends = asyncio.get_running_loop().time() + self._seconds
        arriving = True
        self._arriving += 1

        def arrived() -> None:
            nonlocal arriving
            self._arriving -= arriving
            arriving = False

        async def in_time() -> Message:
            if not arriving:
                return await receive()
            try:
                async with asyncio.timeout_at(ends):
                    message = await receive()
            except TimeoutError:
                text = f"The body did not arrive in full within {self._seconds:g} seconds. Send it without a pause."
                raise HTTPException(408, text, {"Connection": "close"}) from None
            if not message.get("more_body"):
                arrived()
            return message

        try:
            await self._app(scope, in_time, send)
        finally:
            arrived()


class CrossOrigin:
    """Answers preflights and adds CORS headers for the origins that are allowed; without any it changes nothing.

    Args:
        app: the application behind this middleware.
        origins: returns the allowed origins. It is asked at each request, since a replica's settings are known only
            after its application was made.
    """

    def __init__(self, app: ASGIApp, origins: Callable[[], tuple[str, ...]]) -> None:
        self._app = app
        self._origins = origins
        self._allowed: tuple[str, ...] = ()
        self._cors = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (allowed := self._origins()) != self._allowed:
            self._cors = CORSMiddleware(
                self._app,
                allow_origins=allowed,
                allow_methods=["GET", "HEAD", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=[
                    "Location",
                    "Retry-After",
                    "ETag",
                    "Accept-Ranges",
                    "Content-Range",
                    "openai-poll-after-ms",
                ],
            )
            self._allowed = allowed
        await (self._cors if allowed else self._app)(scope, receive, send)


class HeadAsGet:
    """Answers HEAD as GET without the body (RFC 9110, section 9.3.2); FastAPI's routes would answer 405."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            elif message["type"] == "http.response.pathsend":
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        # With this extension a response names its file instead of reading it.
        extensions = {**(scope.get("extensions") or {}), "http.response.pathsend": {}}
        await self._app({**scope, "method": "GET", "extensions": extensions}, receive, without_body)


class ConnectionAge:
    """Closes a connection with its first answer after ``MAX_CONNECTION_SECONDS``.

    A connection that is kept for good stays with its pod and is cut off when the pod stops: Kubernetes routes only new
    connections to other pods, and Serve's proxy closes none by itself. A new connection for each request would cost
    too much.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float]) -> None:
        self._app = app
        self._clock = clock
        self._since: dict[tuple[str, int], float] = {}
        """When each client's address and port was first seen, oldest first."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope.get("client"):
            await self._app(scope, receive, send)
            return
        now = self._clock()
        client = tuple(scope["client"])
        last = now - self._since.setdefault(client, now) >= MAX_CONNECTION_SECONDS
        if last:
            del self._since[client]
        self._forget(now)

        async def closing(message: Message) -> None:
            if last and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, closing)

    def _forget(self, now: float) -> None:
        """Drop old connections; ASGI does not report when a connection ends."""
        while self._since:
            oldest = next(iter(self._since))
            if now - self._since[oldest] < _FORGET_CONNECTION_SECONDS:
                break
            del self._since[oldest]
