"""Reads the body of ``POST /generate``: JSON with the image in base64, or a form with the image as a file."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from app.http.application import MAX_BODY_BYTES, too_large
from app.http.generate_request import GenerateRequest, InvalidRequestError
from app.media import images

FORM = "multipart/form-data"
_SCHEMA = GenerateRequest.model_json_schema()

BODY_DOCUMENTATION: dict[str, Any] = {
    "requestBody": {"required": True, "content": {kind: {"schema": _SCHEMA} for kind in ("application/json", FORM)}}
}
"""What FastAPI cannot know of a body that is read here."""


async def submitted(request: Request) -> GenerateRequest:
    """Return the request that the body holds; every wrong field is named.

    Raises:
        RequestValidationError: the body is no object of known fields with allowed values.
        InvalidRequestError: the image is not one that is accepted.
        HTTPException: the body is too large.
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
                {"type": "json_invalid", "loc": ("body", error.start), "ctx": {"error": "no UTF-8"}, "input": {}}
            ]
    image = fields.get("image") if isinstance(fields, Mapping) else None
    if len(body) - (len(image) if isinstance(image, str) else 0) > MAX_BODY_BYTES:
        raise HTTPException(413, f"{too_large(MAX_BODY_BYTES)} beside its image")
    if problem:
        raise RequestValidationError(problem)
    return fields


async def _from_form(request: Request) -> dict[str, Any]:
    async with request.form(max_files=1, max_fields=50, max_part_size=MAX_BODY_BYTES) as form:
        fields: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name in fields:
                raise InvalidRequestError(name, "found it twice; give each field once")
            if isinstance(value, UploadFile) and name != "image":
                raise InvalidRequestError(name, "found a file; only image is one")
            if name == "image" and not isinstance(value, UploadFile):
                raise InvalidRequestError("image", f"found text; give a file: {images.ALLOWED}")
            fields[name] = await value.read() if isinstance(value, UploadFile) else value
        return fields
