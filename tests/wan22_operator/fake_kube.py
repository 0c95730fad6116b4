"""A stand-in for the API server, in memory. It knows no schemas, no defaults and no admission.

What only a real API server shows (field managers, webhooks, permissions) is tested in tests/control_plane.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from kubernetes.aio.client import ApiException
from wan22_operator.api_server import Json
from wan22_operator.kube import ConflictError, Kube


class FakeKube(Kube):
    """Objects by API path, each with a resourceVersion; requests that change something are recorded in ``writes``."""

    def __init__(self, objects: Mapping[str, Json] | None = None) -> None:
        self.objects: dict[str, Json] = {}
        self.writes: list[tuple[str, str, Any]] = []
        self.before_write: Callable[[], object] = lambda: None
        """Called before each write: another client may be faster."""
        self.refuse = 0
        """If not 0, the status with which every write is refused."""
        self.webhook: Callable[[Json], Json] | None = None
        """What a webhook makes of each object that is written; None if it is away. It refuses every dry run."""
        self.managers: list[str] = []
        """The field manager of each of ``writes``."""
        self._version = 0
        for path, body in (objects or {}).items():
            self.store(path, body)

    def store(self, path: str, body: Json) -> Json:
        """Store an object as any client would."""
        self._version += 1
        body = copy.deepcopy(body)
        body["metadata"] = {**body.get("metadata", {}), "resourceVersion": str(self._version)}
        self.objects[path] = body
        return copy.deepcopy(body)

    async def request(
        self, verb: str, path: str, body: Any = None, *, query: Mapping[str, str] | None = None, patch: str = "json"
    ) -> Json:
        """Answer as the API server would, as far as the operator can tell."""
        if verb != "GET":
            self.before_write()
            if self.refuse:
                raise ApiException(status=self.refuse, reason="refused")
            if query and "dryRun" in query:
                return self._judged(path)
            self.writes.append((verb, path, body))
            self.managers.append((query or {}).get("fieldManager", ""))
        if verb == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise ConflictError(path)
            return self.store(path, body)
        if path not in self.objects:
            raise ApiException(status=404, reason="not found")
        current = copy.deepcopy(self.objects[path])
        if verb == "GET":
            return current
        if verb == "PUT":
            self._compare(current, body["metadata"].get("resourceVersion"))
            return self.store(path, body)
        assert verb == "PATCH"
        if patch == "merge":
            self._compare(current, body.get("metadata", {}).get("resourceVersion"))
            changed = {key: value for key, value in body.items() if key != "metadata"}
            merged = {
                key: {**current.get(key, {}), **value} if isinstance(value, dict) else value
                for key, value in changed.items()
            }
            return self.store(path, {**current, **merged})
        for operation in body:
            self._apply(current, operation)
        if query and "fieldManager" in query:
            current["metadata"].setdefault("managedFields", []).append({"manager": query["fieldManager"]})
        return self.store(path, self.webhook(current) if self.webhook else current)

    def _judged(self, path: str) -> Json:
        if self.webhook:
            raise ApiException(status=422, reason="admission webhook denied the request: found 'the-operator-asks'")
        return copy.deepcopy(self.objects[path])

    def _compare(self, current: Json, version: str | None) -> None:
        if version not in (None, current["metadata"]["resourceVersion"]):
            raise ConflictError("the object changed since it was read")

    def _apply(self, body: Any, operation: Json) -> None:
        *parents, last = [part.replace("~1", "/") for part in operation["path"].split("/")[1:]]
        for part in parents:
            body = body[int(part)] if isinstance(body, list) else body[part]
        if operation["op"] == "test":
            if body.get(last) != operation["value"]:
                raise ConflictError("the object changed since it was read")
        elif operation["op"] == "remove":
            del body[int(last) if isinstance(body, list) else last]
        else:
            assert operation["op"] == "add"
            body[last] = operation["value"]
