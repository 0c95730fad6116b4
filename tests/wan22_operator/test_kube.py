"""How answers of the API server become objects and errors; the client's transport is replaced."""

import json
from typing import Any, cast

import pytest
from kubernetes.aio.client import ApiClient, ApiException
from wan22_operator.kube import ConflictError, Kube


class FakeClient:
    """Answers every request with one status and content."""

    def __init__(self, status: int, content: bytes) -> None:
        self.status, self._content, self.reason = status, content, "Reason"
        self.sent: list[dict[str, Any]] = []

    async def param_serialize(self, verb: str, path: str, **arguments: Any) -> tuple[str, str]:
        self.sent.append(arguments)
        return verb, path

    async def call_api(self, *_: object, **__: object) -> "FakeClient":
        return self

    async def read(self) -> bytes:
        return self._content

    def getheader(self, name: str) -> str | None:
        return None


def kube(status: int, content: bytes) -> tuple[Kube, FakeClient]:
    client = FakeClient(status, content)
    return Kube(cast(ApiClient, client)), client


def failure(message: str) -> bytes:
    return json.dumps({"kind": "Status", "message": message}).encode()


TEST_FAILED = failure("the server rejected our request due to an error in our request")


@pytest.mark.parametrize(("status", "content"), [(409, failure("modified")), (422, TEST_FAILED)])
async def test_an_object_that_changed_is_a_conflict(status: int, content: bytes) -> None:
    with pytest.raises(ConflictError, match="PATCH /x: the object changed since it was read"):
        await kube(status, content)[0].request("PATCH", "/x", [])


@pytest.mark.parametrize(
    ("status", "content", "reason"),
    [
        (422, failure("spec.replicas: too many"), "spec.replicas: too many"),
        (503, b"<html>proxy</html>", "<html>proxy</html>"),
        (500, b"", "Reason"),
        (200, b"<html>proxy</html>", "the answer is not a JSON object"),
    ],
)
async def test_an_error_has_the_servers_reason(status: int, content: bytes, reason: str) -> None:
    with pytest.raises(ApiException) as error:
        await kube(status, content)[0].request("GET", "/x")
    assert error.value.status == status
    assert reason in str(error.value.reason)


async def test_an_object_that_does_not_exist_is_none() -> None:
    assert await kube(404, failure("not found"))[0].get("/x") is None
    assert await kube(200, b'{"a": 1}')[0].get("/x") == {"a": 1}


@pytest.mark.parametrize(("patch", "content_type"), [("json", "json-patch"), ("merge", "merge-patch")])
async def test_a_patch_names_its_kind(patch: str, content_type: str) -> None:
    api, client = kube(200, b"{}")
    await api.request("PATCH", "/x", {}, patch=patch)
    assert client.sent[0]["header_params"]["Content-Type"] == f"application/{content_type}+json"
