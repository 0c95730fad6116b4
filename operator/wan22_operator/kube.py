"""Calls to the API server, through the ``kubernetes`` client; every one is counted by its verb."""

import json
import os
from collections.abc import Mapping
from typing import Any

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException

from wan22_operator import constants as names
from wan22_operator import metrics
from wan22_operator.admission import Patch
from wan22_operator.snapshots import Snapshot, read

TIMEOUT = 10.0
Json = dict[str, Any]


class ConflictError(RuntimeError):
    """The object changed since it was read; read it again."""


class Kube:
    """The API server, as far as the operator uses it. Objects are plain dictionaries."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls) -> "Kube":
        """Connect as the pod's service account, or as KUBECONFIG says."""
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            config.load_incluster_config()  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config()  # type: ignore[no-untyped-call]
        return cls(ApiClient())

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, path: str, **query: str) -> Json | None:
        """Return the object at an API path, or None where there is none."""
        try:
            return await self.request("GET", path, query=query)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    async def request(
        self, verb: str, path: str, body: object = None, *, query: Mapping[str, str] | None = None, patch: str = "json"
    ) -> Json:
        """Send one request and return its answer.

        Raises:
            ConflictError: the object is not the one that was read before.
            ApiException: the API server refused.
        """
        metrics.API_REQUESTS.labels(verb).inc()
        headers = {"Accept": "application/json"}
        if verb == "PATCH":
            headers["Content-Type"] = f"application/{patch}-patch+json"
        arguments = await self._client.param_serialize(
            verb,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        response = await self._client.call_api(*arguments, _request_timeout=TIMEOUT)
        content = await response.read()  # type: ignore[no-untyped-call]
        if response.status == 409 or (response.status == 422 and _is_test_failure(content)):
            raise ConflictError(f"{verb} {path}: the object changed in between")
        if response.status >= 400:
            raise ApiException(status=response.status, reason=_reason(content) or response.reason)
        value = json.loads(content or b"{}")
        assert isinstance(value, dict)
        return value

    async def snapshot(self, kind: str, namespace: str, name: str) -> Snapshot | None:
        """Return a RayService or RayCluster as it is now; None if it is gone."""
        body = await self.get(object_path(kind, namespace, name))
        return read(kind, body) if body else None

    async def patch(self, obj: Snapshot, patch: Patch) -> Snapshot:
        """Patch an object, if it is still the one that was read, and return it as it is then.

        Raises:
            ConflictError: it is not.
        """
        guard = [{"op": "test", "path": "/metadata/resourceVersion", "value": obj.resource_version}]
        path = object_path(obj.kind, obj.namespace, obj.name)
        return read(obj.kind, await self.request("PATCH", path, guard + patch))

    async def worker_pods(self, namespace: str, cluster: str) -> list[Json]:
        """Return the pods of a RayCluster's worker group."""
        selector = f"{names.CLUSTER_LABEL}={cluster},{names.GROUP_LABEL}={names.WORKER_GROUP}"
        answer = await self.request("GET", f"/api/v1/namespaces/{namespace}/pods", query={"labelSelector": selector})
        return list(answer.get("items", ()))


def object_path(kind: str, namespace: str, name: str) -> str:
    """Return the API path of a RayService or RayCluster."""
    return f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{namespace}/{names.PLURALS[kind]}/{name}"


def _is_test_failure(content: bytes) -> bool:
    """Whether a JSON patch's ``test`` failed: the API server then says no more than this, and never why."""
    return b"the server rejected our request due to an error in our request" in content


def _reason(content: bytes) -> str:
    try:
        return str(json.loads(content).get("message", ""))
    except ValueError:
        return content[:200].decode(errors="replace")
