"""The FastAPI application without its routes, which ``entrypoint`` adds."""

import time
from collections.abc import Callable

from fastapi import FastAPI

from app.http.errors import add_error_handlers
from app.http.middleware import BodyLimit, ConnectionAge

SUBMIT_PATH = "/generate"


def create_api(clock: Callable[[], float] = time.monotonic) -> FastAPI:
    """Return the application with its documentation, limits and error answers; ``clock`` measures connections."""
    api = FastAPI(
        title="wan22-rayservice",
        summary="Wan2.2 video generation: submit a task, follow it, fetch its video.",
        version="1",
    )
    api.add_middleware(BodyLimit, image_path=SUBMIT_PATH)
    api.add_middleware(ConnectionAge, clock=clock)
    add_error_handlers(api)
    return api
