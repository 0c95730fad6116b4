"""Error answers: ``{"error": {"code", "message", "type", "param"}}``, with ``fields`` if fields are wrong."""

import logging
import textwrap
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.http.generate_request import InvalidRequestError
from app.media.storage import StorageError
from app.tasks.store import StoreRefusedError, StoreUnavailableError, UnreadableTaskError

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 5
_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    410: "gone",
    413: "request_entity_too_large",
    416: "requested_range_not_satisfiable",
    422: "unprocessable_entity",
    429: "too_many_requests",
    500: "internal_server_error",
    503: "service_unavailable",
}
"""``error.code`` of each status. Python's own phrases differ between its versions (413, 416 and 422 in 3.13)."""


def problem(status: int, message: str, *, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    """Return an error answer; its ``code`` is the status in words, such as ``not_found`` (``error`` if it is rare).

    ``type`` and ``param``, the first wrong field, are what clients of OpenAI's API read besides.
    """
    error = {"code": _CODES.get(status, "error"), "message": message, **more}
    error["type"] = "server_error" if status >= 500 else "invalid_request_error"
    error["param"] = more["fields"][0]["field"] if more.get("fields") else None
    return JSONResponse({"error": error}, status, headers)


def add_error_handlers(api: FastAPI) -> None:
    """Make ``api`` answer every error in the one shape."""
    handlers: dict[Any, Callable[[Request, Any], Awaitable[JSONResponse]]] = {
        RequestValidationError: _invalid_fields,
        InvalidRequestError: _invalid_field,
        StoreUnavailableError: _unavailable,
        StoreRefusedError: _refused,
        UnreadableTaskError: _unreadable,
        StorageError: _storage_away,
        HTTPException: _http_error,
        Exception: _unexpected,
    }
    for error, handler in handlers.items():
        api.add_exception_handler(error, handler)


async def _invalid_fields(request: Request, error: RequestValidationError) -> JSONResponse:
    fields = [_wrong_field(request, one) for one in error.errors()]
    return problem(422, "; ".join(f"{one['field']}: {one['message']}" for one in fields), fields=fields)


def _wrong_field(request: Request, error: dict[str, Any]) -> dict[str, str]:
    path = [str(part) for part in error["loc"][1:]]
    if error["type"] == "json_invalid":
        reason = f"{error['ctx']['error']} at character {path[0]}"
        return {"field": "body", "message": f"The body is not valid JSON ({reason}); send one JSON object"}
    found = textwrap.shorten(repr(error["input"]), 60)
    if not path:
        kind = request.headers.get("content-type", "none")
        message = (
            "The body must be a JSON object with Content-Type: application/json, or a form with Content-Type: "
            f"multipart/form-data (found {'no JSON' if error['input'] is None else found} with Content-Type: {kind})"
        )
        return {"field": "body", "message": message}
    if error["type"] == "extra_forbidden":
        known = ", ".join(error["ctx"]["known"])
        message = f"This field does not exist; correct its name or leave it out. The known fields are {known}"
    elif error["type"] == "missing":
        message = "This field is required; send it"
    else:
        message = f"{error['msg']} (found {found})"
    return {"field": ".".join(path), "message": message}


async def _invalid_field(_: Request, error: InvalidRequestError) -> JSONResponse:
    return problem(422, str(error), fields=[{"field": error.field, "message": error.message}])


async def _unavailable(_: Request, __: StoreUnavailableError) -> JSONResponse:
    message = (
        f"The task store (Redis) does not answer. No accepted task is lost; try again in {_RETRY_SECONDS} seconds. "
        "A POST with a task_id or an Idempotency-Key is safe to repeat."
    )
    return problem(503, message, headers={"Retry-After": str(_RETRY_SECONDS)})


async def _refused(_: Request, error: StoreRefusedError) -> JSONResponse:
    return problem(503, f"The task store cannot be used: {error}.")


async def _unreadable(_: Request, error: UnreadableTaskError) -> JSONResponse:
    _log.warning("the record of a task cannot be read: %s", error)
    message = (
        "The record of this task cannot be read by this version; the log of APIEntrypoint has the reason. Submit the "
        "request under another task_id."
    )
    return problem(410, message)


async def _storage_away(request: Request, error: StorageError) -> JSONResponse:
    _log.warning("%s %s: %s", request.method, request.url.path, error)
    message = (
        f"The storage of videos and images does not answer or refuses. Try again in {_RETRY_SECONDS} seconds; the log "
        "of APIEntrypoint has the reason."
    )
    return problem(503, message, headers={"Retry-After": str(_RETRY_SECONDS)})


async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    message = str(error.detail)
    if message == HTTPStatus(error.status_code).phrase:
        # The framework's own refusal of a path or a method, which names neither.
        message = f"{request.method} {request.url.path}: {message}. GET /openapi.json lists every path and its methods."
    return problem(error.status_code, message, headers=dict(error.headers or {}))


async def _unexpected(_: Request, __: Exception) -> JSONResponse:
    message = (
        "An error inside the service ended this request; the log of APIEntrypoint has the details. "
        "A POST with a task_id or an Idempotency-Key is safe to repeat."
    )
    return problem(500, message)
