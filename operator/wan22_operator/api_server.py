"""One request to the API server through the ``kubernetes`` client, for the operator and the doctor alike."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kubernetes.aio.client import ApiClient

Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the API server answered, whatever its status."""

    status: int
    body: Json | None
    """The JSON object of the answer; None if it holds something else."""
    message: str
    """Why the API server refused, in its own words; meaningful only from status 400 on."""
    date: str
    """The API server's time as an HTTP date; empty if it sent none."""


async def request(
    client: ApiClient,
    verb: str,
    path: str,
    body: object = None,
    *,
    query: Iterable[tuple[str, str]] = (),
    patch: str = "json",
    seconds: float,
) -> Answer:
    """Send one request and return its answer; a status of 400 or above is not an exception here.

    Args:
        patch: the kind of a PATCH's body: "json" or "merge".
        seconds: how long the API server may take.

    Raises:
        aiohttp.ClientError, TimeoutError: no answer came.
    """
    headers = {"Accept": "application/json"}
    if verb == "PATCH":
        headers["Content-Type"] = f"application/{patch}-patch+json"
    arguments = await client.param_serialize(
        verb, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
    )
    response = await client.call_api(*arguments, _request_timeout=seconds)
    content = await response.read()  # type: ignore[no-untyped-call]
    found = json_object(content)
    return Answer(
        status=int(response.status or 0),
        body=found,
        message=str((found or {}).get("message") or content[:200].decode(errors="replace") or response.reason),
        date=str(response.getheader("Date") or ""),  # type: ignore[no-untyped-call]
    )


def json_object(content: bytes) -> Json | None:
    """Return the JSON object that ``content`` holds, an empty one if it is empty; None if it holds anything else."""
    try:
        value = json.loads(content or b"{}")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
