"""The operator's calls to the API server, each counted by its verb."""

import asyncio
import os
from collections.abc import Mapping

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException

from wan22_operator import api_server, metrics
from wan22_operator import constants as names
from wan22_operator.api_server import Json
from wan22_operator.json_patch import Patch, if_unchanged
from wan22_operator.snapshots import Snapshot, read

ANSWER_SECONDS = 10.0
"""How long the API server may take for one answer."""
REQUESTS_AT_ONCE = 8
PAGE = 200
"""Objects in one answer to a list."""
_TEST_FAILED = "the server rejected our request due to an error in our request"
"""All that the API server says, with status 422, when a JSON patch's ``test`` fails."""


class ConflictError(RuntimeError):
    """The object changed since it was read; read it again."""


class Kube:
    """The API server, as far as the operator uses it. Objects are plain dictionaries."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        # Bounds the load here and not in the queue, so that heads that do not answer hold up no other object.
        self._slots = asyncio.Semaphore(REQUESTS_AT_ONCE)

    @classmethod
    async def connect(cls) -> "Kube":
        """Connect as the pod's service account or, outside a pod or if KUBECONFIG is set, by the kubeconfig."""
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            config.load_incluster_config()  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config()  # type: ignore[no-untyped-call]
        return cls(ApiClient())

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, path: str, **query: str) -> Json | None:
        """Return the object at an API path; None if it does not exist."""
        try:
            return await self.request("GET", path, query=query)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    async def request(
        self, verb: str, path: str, body: object = None, *, query: Mapping[str, str] | None = None, patch: str = "json"
    ) -> Json:
        """Send one request and return the JSON object of its answer. ``patch`` is "json" or "merge".

        Raises:
            ConflictError: the object changed since it was read.
            ApiException: the API server refused.
        """
        metrics.API_REQUESTS.labels(verb).inc()
        async with self._slots:
            answer = await api_server.request(
                self._client, verb, path, body, query=(query or {}).items(), patch=patch, seconds=ANSWER_SECONDS
            )
        if answer.status == 409 or (answer.status == 422 and _TEST_FAILED in answer.message):
            raise ConflictError(f"{verb} {path}: the object changed since it was read")
        if answer.status >= 400:
            raise ApiException(status=answer.status, reason=answer.message)
        if answer.body is None:
            raise ApiException(status=answer.status, reason=f"{verb} {path}: the answer is not a JSON object")
        return answer.body

    async def snapshot(self, kind: str, namespace: str, name: str) -> Snapshot | None:
        """Return the current state of a RayService or RayCluster; None if it is gone."""
        body = await self.get(object_path(kind, namespace, name))
        return read(kind, body) if body else None

    async def list_objects(self, kind: str, namespace: str) -> tuple[int, list[Snapshot]]:
        """Return all objects of a kind in a namespace ("" for all) and the resourceVersion at which they were listed.

        Raises:
            LookupError: the API server does not know the kind.
        """
        query, found, version = {"limit": str(PAGE)}, [], 0
        while True:
            page = await self.get(object_path(kind, namespace, "").rstrip("/"), **query)
            if page is None:
                raise LookupError(f"ray.io/v1 has no {names.PLURALS[kind]}; install KubeRay's CRDs")
            meta = page.get("metadata") or {}
            version = version or int(meta.get("resourceVersion") or 0)
            found += [read(kind, body) for body in page.get("items") or ()]
            if not meta.get("continue"):
                return version, found
            query["continue"] = meta["continue"]

    async def patch(self, obj: Snapshot, patch: Patch, *, manager: str = "") -> Snapshot:
        """Patch an object that has not changed since ``obj`` was read, and return its new state.

        ``manager`` is the field manager that owns what is written; empty for that of the operator's other writes.

        Raises:
            ConflictError: it has changed, or it is gone.
        """
        path = object_path(obj.kind, obj.namespace, obj.name)
        query = {"fieldManager": manager} if manager else {}
        try:
            body = await self.request("PATCH", path, if_unchanged(obj.resource_version) + patch, query=query)
        except ApiException as error:
            if error.status == 404:
                raise ConflictError(f"PATCH {path}: the object is gone") from None
            raise
        return read(obj.kind, body)

    async def refusal(self, obj: Snapshot, patch: Patch) -> str:
        """Return why the API server would refuse a patch, by a dry run; empty if it would not."""
        path = object_path(obj.kind, obj.namespace, obj.name)
        try:
            await self.request("PATCH", path, patch, query={"dryRun": "All"})
        except ApiException as error:
            return str(error.reason)
        return ""

    async def cluster_pods(self, namespace: str, cluster: str) -> list[Json]:
        """Return all pods of a RayCluster, of every group, including those that are being deleted."""
        selector = f"{names.CLUSTER_LABEL}={cluster}"
        answer = await self.request("GET", f"/api/v1/namespaces/{namespace}/pods", query={"labelSelector": selector})
        return list(answer.get("items", ()))


def object_path(kind: str, namespace: str, name: str) -> str:
    """Return the API path of a RayService or RayCluster; that of a list if no name or no namespace is given."""
    space = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{names.GROUP}/{names.VERSION}{space}/{names.PLURALS[kind]}/{name}"
