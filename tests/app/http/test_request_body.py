"""The body of a submission: JSON or a form, its bounds, and the messages that refuse a wrong one."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends

from app.http.application import SUBMIT_PATH, create_api
from app.http.generate_request import MAX_PROMPT_CHARACTERS, GenerateRequest
from app.http.middleware import MAX_BODY_BYTES
from app.http.request_body import BODY_DOCUMENTATION, read_request
from app.media import images
from tests.app.media.pictures import encoded

PICTURE = encoded("PNG")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """The API with its real limits and error answers, and one route that returns the request it read."""
    api = create_api()

    @api.post(SUBMIT_PATH, openapi_extra=BODY_DOCUMENTATION)
    async def echo(request: Annotated[GenerateRequest, Depends(read_request)]) -> dict[str, Any]:
        said = request.model_dump(exclude_unset=True, exclude={"image"})
        return said | ({"image_bytes": len(request.image)} if request.image is not None else {})

    @api.post("/elsewhere")
    async def elsewhere(body: dict[str, Any]) -> int:
        return len(body)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://service") as client:
        yield client


def as_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


async def test_json_with_base64_and_a_form_with_a_file_say_the_same(http: httpx.AsyncClient) -> None:
    sent = await http.post(SUBMIT_PATH, json={"prompt": "a", "width": 64, "image": as_text(PICTURE)})
    form = await http.post(SUBMIT_PATH, data={"prompt": "a", "width": "64"}, files={"image": ("a.png", PICTURE)})
    assert sent.json() == form.json() == {"prompt": "a", "width": 64, "image_bytes": len(PICTURE)}


async def test_a_form_needs_no_image(http: httpx.AsyncClient) -> None:
    reply = await http.post(SUBMIT_PATH, files={"prompt": (None, "a")})
    assert reply.json() == {"prompt": "a"}


async def test_the_largest_image_passes_both_ways(http: httpx.AsyncClient) -> None:
    largest = bytes(images.MAX_BYTES)
    bodies: list[dict[str, Any]] = [{"json": {"image": as_text(largest)}}, {"files": {"image": ("a.png", largest)}}]
    for body in bodies:
        reply = await http.post(SUBMIT_PATH, **body)
        assert reply.json() == {"image_bytes": images.MAX_BYTES}


@pytest.mark.parametrize(
    "body",
    [
        {"json": {"prompt": "x" * MAX_BODY_BYTES}},
        {"json": {"image": "", "junk": "x" * MAX_BODY_BYTES}},
        {"content": b"x" * (MAX_BODY_BYTES + 1)},
        {"json": {"image": "x" * 20_000_000}},
    ],
)
async def test_more_room_is_for_the_image_alone(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert (await http.post(SUBMIT_PATH, **body)).status_code == 413


async def test_more_room_is_for_submissions_alone(http: httpx.AsyncClient) -> None:
    assert (await http.post("/elsewhere", json={"image": "x" * MAX_BODY_BYTES})).status_code == 413


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"json": {"image": "not base64"}}, "image: found a string that is no base64; allowed is PNG"),
        (
            {"json": {"image": "https://example.com/a.png"}},
            "image: found a URL; the service fetches nothing: send the picture itself, as base64. Allowed is PNG",
        ),
        (
            {"json": {"fps": 23.976}},
            "fps: Input should be a valid integer, got a number with a fractional part (found 2",
        ),
        ({"json": {"image": 7}}, "image: Input should be a valid bytes"),
        (
            {"data": {"image": "text"}, "files": {"seed": (None, "1")}},
            "image: Found text; in a form the image must be a file: PNG",
        ),
        (
            {"files": {"prompt": ("a.txt", b"words")}},
            "prompt: Found a file (a.txt); only the field image may be a file",
        ),
        (
            {"files": [("prompt", (None, "a")), ("prompt", (None, "b"))]},
            "prompt: The form has this field twice; send each field once",
        ),
        ({"files": {"width": (None, "17")}}, "width: Input should be a multiple of 16"),
        (
            {"files": {"picture": (None, "17")}},
            "picture: This field does not exist; correct its name or leave it out. The known fields are task_id",
        ),
        (
            {"content": b"{", "headers": {"Content-Type": "application/json"}},
            "body: The body is not valid JSON (Expecting",
        ),
        (
            {"content": b"{}"},
            "or a form with Content-Type: multipart/form-data (found no JSON with Content-Type: none)",
        ),
        ({"json": [1]}, "body: The body must be a JSON object with Content-Type: application/json"),
    ],
)
async def test_the_answer_to_a_wrong_body_says_what_is_wrong(
    http: httpx.AsyncClient, body: dict[str, Any], message: str
) -> None:
    reply = await http.post(SUBMIT_PATH, **body)
    assert reply.status_code == 422
    assert message in reply.json()["error"]["message"]


async def test_both_ways_are_documented(http: httpx.AsyncClient) -> None:
    body = (await http.get("/openapi.json")).json()["paths"][SUBMIT_PATH]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    assert "at most 10 MiB" in body["application/json"]["schema"]["properties"]["image"]["description"]


FORM = (
    b'--limit\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n'
    b'--limit\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n%b\r\n--limit--\r\n' % PICTURE
)


@pytest.mark.parametrize("missing", [0, 2, 4, 11, 30, len(FORM) - 60, len(FORM)])
async def test_a_form_without_its_end_is_refused(http: httpx.AsyncClient, missing: int) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=limit"}
    reply = await http.post(SUBMIT_PATH, content=FORM[: len(FORM) - missing], headers=headers)
    if missing <= 2:  # Nothing but the line's end after the last boundary.
        assert reply.json() == {"prompt": "a", "image_bytes": len(PICTURE)}
    else:
        assert reply.status_code == 400
        assert "ends before its last boundary" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "content"), [("multipart/form-data", FORM), ("multipart/form-data; boundary=limit", b"no boundary")]
)
async def test_a_damaged_form_is_refused(http: httpx.AsyncClient, kind: str, content: bytes) -> None:
    reply = await http.post(SUBMIT_PATH, content=content, headers={"Content-Type": kind})
    assert reply.status_code == 400
    assert "The form cannot be read: " in reply.json()["error"]["message"]


@pytest.mark.parametrize("character", ["a", "\u4e2d", "\U0001f600"])
async def test_the_limit_of_a_prompt_counts_characters_not_bytes(http: httpx.AsyncClient, character: str) -> None:
    fields = {"prompt": character * MAX_PROMPT_CHARACTERS, "negative_prompt": character * MAX_PROMPT_CHARACTERS}
    headers = {"Content-Type": "application/json"}
    for escaped in (True, False):
        content = json.dumps(fields, ensure_ascii=escaped).encode()
        assert (await http.post(SUBMIT_PATH, content=content, headers=headers)).json() == fields
    longer = json.dumps({"prompt": character * (MAX_PROMPT_CHARACTERS + 1)})
    reply = await http.post(SUBMIT_PATH, content=longer, headers=headers)
    assert (reply.status_code, reply.json()["error"]["fields"][0]["field"]) == (422, "prompt")
