"""Reads the body of ``POST /generate``: JSON with the image in base64, or a form with the image as a file."""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from app.http.generate_request import GenerateRequest, InvalidRequestError
from app.http.middleware import MAX_BODY_BYTES, too_large
from app.media import images

FORM = "multipart/form-data"
_SCHEMA = GenerateRequest.model_json_schema()

BODY_DOCUMENTATION: dict[str, Any] = {
    "requestBody": {"required": True, "content": {kind: {"schema": _SCHEMA} for kind in ("application/json", FORM)}}
}
"""OpenAPI's description of the body. FastAPI cannot derive it, since ``read_request`` reads the body itself."""


async def read_request(request: Request) -> GenerateRequest:
    """Return the request in the body of ``POST /generate``.

    Raises:
        RequestValidationError: the body is not an object, or has unknown fields or values that are not allowed;
            every such field is named.
        InvalidRequestError: the image is not accepted, or the form has a field twice or a file in a wrong place.
        HTTPException: the body is too large (413), or a form is damaged or ends too early (400).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields = await _from_form(request) if kind == FORM else await _from_json(request, kind)
    try:
        return GenerateRequest.model_validate(fields)
    except ValidationError as error:
        found = error.errors(include_url=False)
        for one in found:
            if one["loc"] == ("image",):
                reason = one["ctx"]["error"] if one["type"] == "value_error" else one["msg"]
                raise InvalidRequestError("image", str(reason)) from None
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from None


async def _from_json(request: Request, kind: str) -> Any:
    body = await request.body()
    fields: Any = None
    problem: list[dict[str, Any]] = []
    if kind == "application/json" or kind.endswith("+json"):
        try:
            fields = json.loads(body) if body else None
        except json.JSONDecodeError as error:
            problem = [{"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}, "input": {}}]
        except UnicodeDecodeError as error:
            problem = [
                {"type": "json_invalid", "loc": ("body", error.start), "ctx": {"error": "not UTF-8"}, "input": {}}
            ]
    image = fields.get("image") if isinstance(fields, Mapping) else None
    if len(body) - (len(image) if isinstance(image, str) else 0) > MAX_BODY_BYTES:
        raise HTTPException(413, too_large(MAX_BODY_BYTES, "The body without its image"))
    if problem:
        raise RequestValidationError(problem)
    return fields


class _FormParser(MultiPartParser):
    """Starlette's parser (1.10), which does not notice that a form ends before its last boundary."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


async def _from_form(request: Request) -> dict[str, Any]:
    async def content() -> AsyncGenerator[bytes, None]:
        async for chunk in request.stream():
            yield chunk
        if not parser.ended:
            raise MultiPartException("It ends before its last boundary (--BOUNDARY--), so a part of it is missing.")

    parser = _FormParser(request.headers, content(), max_files=1, max_fields=50, max_part_size=MAX_BODY_BYTES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        message = f"The form cannot be read: {error.message} Send the whole form as multipart/form-data."
        raise HTTPException(400, message) from None
    try:
        fields: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name in fields:
                raise InvalidRequestError(name, "The form has this field twice; send each field once")
            if isinstance(value, UploadFile) and name != "image":
                message = f"Found a file ({value.filename}); only the field image may be a file. Send this one as text"
                raise InvalidRequestError(name, message)
            if name == "image" and not isinstance(value, UploadFile):
                message = f"Found text; in a form the image must be a file: {images.ALLOWED}"
                raise InvalidRequestError("image", message)
            fields[name] = await value.read() if isinstance(value, UploadFile) else value
        return fields
    finally:
        await form.close()
