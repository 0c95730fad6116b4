"""The FastAPI application without its routes, which ``entrypoint`` adds."""

import time
from collections.abc import Callable

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.http.errors import add_error_handlers
from app.http.middleware import (
    MAX_ARRIVING_BODIES,
    MAX_BODY_SECONDS,
    BodyDeadline,
    BodyLimit,
    ConnectionAge,
    CrossOrigin,
    HeadAsGet,
)

SUBMIT_PATH = "/generate"
VIDEOS_PATH = "/v1/videos"


def create_api(
    clock: Callable[[], float] = time.monotonic,
    body_seconds: float = MAX_BODY_SECONDS,
    arriving_bodies: int = MAX_ARRIVING_BODIES,
    cors_origins: Callable[[], tuple[str, ...]] = tuple,
) -> FastAPI:
    """Return the application with its documentation, limits and error answers.

    Args:
        clock: measures the age of connections, in seconds.
        body_seconds: how long a body may take to arrive.
        arriving_bodies: how many bodies may be arriving at a time.
        cors_origins: returns the origins of web pages that may call the API from a browser; none by default.
    """
    # Its pages at /docs and /redoc load their scripts from this service: a cluster may have no internet.
    api = FastAPIOffline(
        title="wan22-rayservice",
        summary="Wan2.2 video generation: submit a task, follow it, fetch its video.",
        version="1",
    )
    api.add_middleware(BodyLimit, image_paths=(SUBMIT_PATH, VIDEOS_PATH))
    api.add_middleware(BodyDeadline, seconds=body_seconds, most=arriving_bodies)
    api.add_middleware(HeadAsGet)
    api.add_middleware(CrossOrigin, origins=cors_origins)
    api.add_middleware(ConnectionAge, clock=clock)
    add_error_handlers(api)
    return api
