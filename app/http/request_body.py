"""Reads the body of a submission: JSON with the image in base64, or a form with the image as a file."""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from app.http.generate_request import Body, GenerateRequest, InvalidRequestError
from app.http.middleware import MAX_BODY_BYTES, MAX_IMAGE_BODY_BYTES, too_large
from app.media.images import ALLOWED

JSON = "application/json"
FORM = "multipart/form-data"
B = TypeVar("B", bound=Body)


def body_documentation(body: type[Body]) -> dict[str, Any]:
    """Return OpenAPI's description of the body. FastAPI cannot derive it, since ``read_body`` reads the body itself."""
    schema = body.model_json_schema()
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in (JSON, FORM)}}}


BODY_DOCUMENTATION = body_documentation(GenerateRequest)


async def read_request(request: Request) -> GenerateRequest:
    """Return the request in the body of ``POST /generate``; it raises what ``read_body`` raises."""
    return await read_body(request, GenerateRequest)


async def read_body(request: Request, body: type[B]) -> B:
    """Return the body of the request, JSON or a form.

    Raises:
        RequestValidationError: the body is not an object, or has unknown fields or values that are not allowed;
            every such field is named.
        InvalidRequestError: the image is not accepted, or the form has a field twice or a file in a wrong place.
        HTTPException: the body is too large (413), or a form is damaged or ends too early (400).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    images = body.image_fields
    fields = await _from_form(request, images) if kind == FORM else await _from_json(request, kind, images)
    try:
        return body.model_validate(fields)
    except ValidationError as error:
        found = error.errors(include_url=False)
        for one in found:
            field = str(one["loc"][0]) if one["loc"] else ""
            if field in images and one["type"] != "extra_forbidden":
                reason = one["ctx"]["error"] if one["type"] == "value_error" else one["msg"]
                raise InvalidRequestError(field, str(reason)) from None
        known = {"known": list(body.model_fields)}
        raise RequestValidationError(
            [{**one, "loc": ("body", *one["loc"]), "ctx": one.get("ctx", {}) | known} for one in found]
        ) from None


async def _from_json(request: Request, kind: str, images: frozenset[str]) -> Any:
    body = await request.body()
    fields: Any = None
    problem: list[dict[str, Any]] = []
    if kind == JSON or kind.endswith("+json"):
        try:
            fields = json.loads(body) if body else None
        except json.JSONDecodeError as error:
            problem = [{"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}, "input": {}}]
        except UnicodeDecodeError as error:
            problem = [
                {"type": "json_invalid", "loc": ("body", error.start), "ctx": {"error": "not UTF-8"}, "input": {}}
            ]
    pictures = sum(_characters(fields.get(name)) for name in images) if isinstance(fields, Mapping) else 0
    if len(body) - pictures > MAX_BODY_BYTES:
        raise HTTPException(413, too_large(MAX_BODY_BYTES, "The body without its image"))
    if problem:
        raise RequestValidationError(problem)
    return fields


def _characters(image: Any) -> int:
    """Return the length of an image's text, which may be in an object such as ``{"image_url": TEXT}``."""
    texts = image.values() if isinstance(image, Mapping) else (image,)
    return sum(len(text) for text in texts if isinstance(text, str))


class _FormParser(MultiPartParser):
    """Starlette's parser (1.10), which does not notice that a form ends before its last boundary."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


async def _from_form(request: Request, images: frozenset[str]) -> dict[str, Any]:
    async def content() -> AsyncGenerator[bytes, None]:
        async for chunk in request.stream():
            yield chunk
        if not parser.ended:
            raise MultiPartException("It ends before its last boundary (--BOUNDARY--), so a part of it is missing.")

    parser = _FormParser(request.headers, content(), max_files=1, max_fields=50, max_part_size=MAX_IMAGE_BODY_BYTES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        message = f"The form cannot be read: {error.message} Send the whole form as multipart/form-data."
        raise HTTPException(400, message) from None
    try:
        fields: dict[str, Any] = {}
        for name, value in form.multi_items():
            # A form has no objects: openai's client sends input_reference={"image_url": TEXT} under this name.
            base, bracket, key = name.partition("[")
            nested = bool(bracket) and base in images and key.endswith("]")
            field = base if nested else name
            if field in fields:
                raise InvalidRequestError(field, "The form has this field twice; send each field once")
            if isinstance(value, UploadFile) and name not in images:
                may = (
                    f"only the field {' or '.join(sorted(images))} may be a file"
                    if images
                    else "no field may be a file"
                )
                message = f"Found a file ({value.filename}); {may}. Send this one as text"
                raise InvalidRequestError(name, message)
            if name in images and not isinstance(value, UploadFile):
                message = f"Found text; in a form the image must be a file: {ALLOWED}"
                raise InvalidRequestError(name, message)
            if isinstance(value, UploadFile):
                fields[field] = await value.read()
            else:
                fields[field] = {key.removesuffix("]"): value} if nested else value
        if sum(len(value.encode()) for value in fields.values() if isinstance(value, str)) > MAX_BODY_BYTES:
            raise HTTPException(413, too_large(MAX_BODY_BYTES, "The form without its image"))
        return fields
    finally:
        await form.close()
