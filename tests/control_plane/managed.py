"""What a test sees and does in its namespace."""

import json
from typing import Any

from serve_config import read_counts
from testing.control_plane.api import Api, Json
from testing.control_plane.manifests import ray_service
from testing.control_plane.plane import ControlPlane
from testing.control_plane.standin import Head
from testing.waiting import until

NAME = "wan22-rayservice"


class Managed:
    """One RayService that the operator manages, in a namespace of its own."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace
        self.api: Api = plane.admin
        self.base = f"/apis/ray.io/v1/namespaces/{namespace}"
        self.path = f"{self.base}/rayservices/{NAME}"
        self._seen: list[object] = []

    def apply(self, **values: Any) -> Json:
        """Apply a RayService as a user's manifest."""
        return self.api.apply(ray_service(self.namespace, **values), manager="user")

    def service(self) -> Json:
        """Return the RayService."""
        return self.api.request("GET", self.path)

    def annotate(self, **annotations: object) -> Json:
        """Set annotations of the project by their short names, or remove them with None."""
        values = {
            f"wan22.dev/{key.replace('_', '-')}": None if value is None else str(value)
            for key, value in annotations.items()
        }
        return self.api.merge(self.path, {"metadata": {"annotations": values}})

    def annotation(self, name: str) -> str | None:
        """Return an annotation of the project by its short name."""
        found: str | None = self.service()["metadata"].get("annotations", {}).get(f"wan22.dev/{name}")
        return found

    def status(self) -> Json:
        """Return the operator's status of the RayService."""
        value: Json = json.loads(self.annotation("status") or "{}")
        return value

    def config(self) -> tuple[int | None, int | None, int | None]:
        """Return total_workers, gangs and API replicas in serveConfigV2."""
        found = read_counts(self.service()["spec"].get("serveConfigV2", ""))
        return found.total_workers, found.gangs, found.pods

    def clusters(self) -> list[Json]:
        """Return the RayClusters."""
        items: list[Json] = self.api.request("GET", f"{self.base}/rayclusters")["items"]
        return items

    def cluster_name(self, status: str = "activeServiceStatus") -> str:
        """Return the name of the active (or pending) RayCluster; empty where there is none."""
        found: str = self.service().get("status", {}).get(status, {}).get("rayClusterName", "")
        return found

    def cluster(self, name: str = "") -> Json:
        """Return a RayCluster; the active one if none is named."""
        return self.api.request("GET", f"{self.base}/rayclusters/{name or self.cluster_name()}")

    def replicas(self, name: str = "") -> int:
        """Return the replicas of the worker group of a RayCluster."""
        value: int = self.cluster(name)["spec"]["workerGroupSpecs"][0]["replicas"]
        return value

    def workers(self, name: str = "") -> list[str]:
        """Return the names of the worker pods of a RayCluster."""
        selector = f"ray.io/cluster={name or self.cluster_name()},ray.io/node-type=worker"
        pods = self.api.request("GET", f"/api/v1/namespaces/{self.namespace}/pods", labelSelector=selector)
        return [pod["metadata"]["name"] for pod in pods["items"]]

    def head(self, name: str = "") -> Head:
        """Return the stand-in for the head of a RayCluster."""
        return self.plane.heads.head(self.namespace, name or self.cluster_name())

    def events(self, reason: str) -> list[str]:
        """Return the messages of the Events with that reason."""
        items = self.api.request("GET", f"/api/v1/namespaces/{self.namespace}/events")["items"]
        return [item["message"] for item in items if item["reason"] == reason]

    def until_active(self) -> str:
        """Wait until KubeRay has made a cluster the active one, and return its name."""
        return until("KubeRay has an active RayCluster", self.cluster_name, 60)

    def until_pending(self) -> str:
        """Wait until KubeRay has made the cluster of an upgrade, and return its name, which it announces first."""

        def made() -> str:
            name = self.cluster_name("pendingServiceStatus")
            return name if name in {item["metadata"]["name"] for item in self.clusters()} else ""

        return until("KubeRay prepares a new cluster", made)

    def settled(self, workers: int, gangs: int = 1, pods: int | None = None) -> bool:
        """Return whether all have these counts: the annotations, serveConfigV2, the RayCluster, pods and gangs."""
        pods = workers * gangs if pods is None else pods
        name = self.cluster_name()
        if not name or self.cluster_name("pendingServiceStatus"):
            return False
        status, config, replicas = self.status(), self.config(), self.replicas(name)
        running = len(self.workers(name))
        self._seen = [status, config, replicas, running]
        return (
            status.get("phase") == "ready"
            and status["wanted"] == {"totalWorkers": workers, "gangs": gangs}
            and status["have"] == status["wanted"]
            and config == (workers, gangs, pods)
            and (replicas, running) == (pods, pods)
        )

    def until_settled(self, workers: int, gangs: int = 1, pods: int | None = None, seconds: float = 60) -> None:
        """Wait until it is ``settled``."""
        try:
            until(f"settled at {gangs} gang(s) of {workers}", lambda: self.settled(workers, gangs, pods), seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; seen: {self._seen}") from None
