"""One release of the chart on a cluster: installing it, watching it, asking it for videos."""

import io
import json
from pathlib import Path
from typing import Any

import av
import httpx

from testing.cluster import Cluster, parsed, phase, ready
from testing.control_plane.api import Json
from testing.waiting import until

CHART = Path(__file__).parents[1] / "charts" / "wan22-rayservice"
READY_SECONDS = 240
ENDED = {"succeeded", "failed", "cancelled"}


class Release:
    """A Helm release in a namespace of its own."""

    def __init__(self, cluster: Cluster, namespace: str, name: str = "wan22", kind: str = "RayService") -> None:
        self.cluster, self.namespace, self.name = cluster, namespace, name
        self.object = f"{name}-{'rayservice' if kind == 'RayService' else 'ray-cluster'}"
        self._plural = f"{kind.lower()}s"
        service = f"{self.object}-{'serve' if kind == 'RayService' else 'head'}-svc"
        self._service = service
        self.http = self.client()
        """The API, by way of its Service."""
        self.dashboard = cluster.service(namespace, f"{self.object}-head-svc", 8265)
        """Ray's dashboard; it asks for a token."""

    def client(self) -> httpx.Client:
        """Return a client of the API with connections of its own, by way of its Service."""
        return self.cluster.service(self.namespace, self._service, 8000)

    # What a user does.

    def evict(self, *pods: str) -> None:
        """Ask for pods to leave, as ``kubectl drain`` does; return when they are gone."""
        for pod in pods:
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
            self.cluster.api.request("POST", f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction", body)
        until(f"{pods} are gone", lambda: not {one["metadata"]["name"] for one in self.pods()} & set(pods), 90)

    def install(self, *sets: str, wait: bool = True) -> None:
        """Install the chart with these values; return when all pods are Ready and all gangs stand."""
        self.helm("install", *sets)
        if wait:
            self.until_ready()

    def helm(self, verb: str, *sets: str, flags: tuple[str, ...] = ()) -> None:
        """Install or upgrade with the cluster's values and these."""
        values = [f"--values={path}" for path in self.cluster.values]
        self.cluster.helm(verb, self.name, str(CHART), *self._here, *values, *(f"--set={one}" for one in sets), *flags)

    def change(self, *sets: str) -> None:
        """Upgrade with these values and those that it has."""
        self.helm("upgrade", *sets, flags=("--reuse-values",))

    def test(self) -> str:
        """Run ``helm test`` and return what it says."""
        return self.cluster.helm("test", self.name, *self._here, "--logs", "--timeout=5m")

    def uninstall(self) -> None:
        """Uninstall."""
        self.cluster.helm("uninstall", self.name, *self._here, "--wait", "--timeout=5m")

    def annotate(self, **annotations: object) -> None:
        """Set annotations of the project by their short names, or remove them with None."""
        changes = [
            f"wan22.dev/{key.replace('_', '-')}{'-' if value is None else f'={value}'}"
            for key, value in annotations.items()
        ]
        self.cluster.kubectl("annotate", *self._here, self._plural, self.object, "--overwrite", *changes)

    # What one sees.

    def body(self) -> Json:
        """Return the RayService or RayCluster."""
        return self.cluster.api.request("GET", f"{self._ray}/{self._plural}/{self.object}")

    def annotation(self, name: str) -> str | None:
        """Return an annotation of the project by its short name."""
        found: str | None = self.body()["metadata"].get("annotations", {}).get(f"wan22.dev/{name}")
        return found

    def status(self) -> Json:
        """Return the operator's status."""
        return parsed(self.annotation("status"))

    def clusters(self) -> list[str]:
        """Return the names of the namespace's RayClusters."""
        items = self.cluster.api.request("GET", f"{self._ray}/rayclusters")["items"]
        return [item["metadata"]["name"] for item in items]

    def cluster_meta(self, name: str) -> Json:
        """Return the metadata of a RayCluster of the namespace."""
        return dict(self.cluster.api.request("GET", f"{self._ray}/rayclusters/{name}")["metadata"])

    def pods(self, component: str = "") -> list[Json]:
        """Return the release's pods: all, or ``ray-head``, ``ray-worker``, ``redis`` or ``operator``."""
        selector = f"app.kubernetes.io/instance={self.name}"
        return self.cluster.pods(
            self.namespace, selector + (f",app.kubernetes.io/component={component}" if component else "")
        )

    def pod_names(self, component: str) -> list[str]:
        """Return the names of the pods of one component that are not about to go."""
        return sorted(
            pod["metadata"]["name"] for pod in self.pods(component) if "deletionTimestamp" not in pod["metadata"]
        )

    def gangs(self) -> list[Json]:
        """Return the gangs as the API sees them; none where it does not answer."""
        try:
            return list(self.http.get("/readyz").json()["gangs"])
        except (httpx.HTTPError, ValueError, KeyError):
            return []

    def gang_pod(self, *, leader: bool) -> str:
        """Return the name of the one gang's pod with the leader, or of its one pod without it."""
        (gang,) = self.gangs()
        (ip,) = [node["ip"] for node in gang["nodes"] if node["leader"] == leader]
        (pod,) = [one["metadata"]["name"] for one in self.pods("ray-worker") if one["status"]["podIP"] == ip]
        return str(pod)

    def until_ready(self, workers: int | None = None, gangs: int = 1, seconds: float = READY_SECONDS) -> None:
        """Wait until every pod is Ready, nothing is on its way out, and the gangs stand with ``workers`` ranks each."""
        seen: dict[str, Any] = {}

        def settled() -> bool:
            pods = self.pods()
            seen["pods"] = {pod["metadata"]["name"]: phase(pod) + (" ready" if ready(pod) else "") for pod in pods}
            if not all(ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in pods):
                return False
            found = seen["gangs"] = self.gangs()
            formed = [
                one
                for one in found
                if one["phase"] == "ready" and one["have"] == one["wanted"] == (workers or one["have"])
            ]
            return len(formed) == len(found) == gangs

        try:
            until(f"pods Ready and {gangs} gang(s) of {workers or 'any'} ranks", settled, seconds, every=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}; seen: {seen}") from None

    def until_settled(self) -> None:
        """Wait until the operator has nothing left to do: the pods that were too many are gone, and Ray knows it."""
        until("the operator's status is ready", lambda: self.status().get("phase") == "ready", READY_SECONDS, every=0.3)

    def until_serve_settled(self) -> None:
        """Wait until each of Serve's replicas runs, with none on its way in or out."""
        ask = 'wget -qO- --header "Authorization: Bearer $RAY_AUTH_TOKEN" http://localhost:8265/api/serve/applications/'

        def settled() -> bool:
            (head,) = self.pod_names("ray-head")
            said = json.loads(self.cluster.execute(self.namespace, head, "sh", "-c", ask))
            deployments = said["applications"]["wan22"]["deployments"].values()
            return all(replica["state"] == "RUNNING" for one in deployments for replica in one["replicas"])

        until("each of Serve's replicas runs", settled, 60, every=1)

    # Videos.

    def submit(self, task_id: str, **fields: Any) -> Json:
        """Ask for a video; the model's own defaults for what is not named."""
        reply = self.http.post("/generate", json={"task_id": task_id, "seed": 1} | fields)
        assert reply.status_code == 202, f"{reply.status_code}: {reply.text}"
        return dict(reply.json())

    def task(self, task_id: str) -> Json:
        """Return a task; empty while the API does not answer."""
        try:
            reply = self.http.get(f"/generate/{task_id}")
            return dict(reply.json()) if reply.status_code == 200 else {}
        except (httpx.HTTPError, ValueError):
            return {}

    def wait_for_end(self, task_id: str, seconds: float = 180) -> Json:
        """Return a task once it ended, well or not."""

        def ended() -> Json | None:
            task = self.task(task_id)
            return task if task.get("status") in ENDED else None

        return until(f"the end of {task_id}", ended, seconds, every=0.3)

    def wait_for_step(self, task_id: str, step: int = 3, seconds: float = 120) -> Json:
        """Return a task once it runs and has made some steps."""

        def reached() -> Json | None:
            task = self.task(task_id)
            return task if task.get("status") == "running" and task["progress"]["step"] >= step else None

        return until(f"step {step} of {task_id}", reached, seconds, every=0.2)

    def video(self, task_id: str) -> bytes:
        """Return the mp4 of a task that succeeded."""
        reply = self.http.get(f"/generate/{task_id}/video", follow_redirects=True)
        assert reply.status_code == 200, f"{reply.status_code}: {reply.text[:500]}"
        return reply.content

    def make(self, task_id: str, seconds: float = 180, **fields: Any) -> Json:
        """Make a video and return its task; it must have come out well."""
        self.submit(task_id, **fields)
        task = self.wait_for_end(task_id, seconds)
        assert task["status"] == "succeeded", task
        return task

    def close(self) -> None:
        """Close the clients."""
        self.http.close()
        self.dashboard.close()

    @property
    def _here(self) -> tuple[str, ...]:
        return (f"--namespace={self.namespace}",)

    @property
    def _ray(self) -> str:
        return f"/apis/ray.io/v1/namespaces/{self.namespace}"


def probe(video: bytes) -> Json:
    """Return what an mp4 says of itself, with its frames decoded and counted."""
    with av.open(io.BytesIO(video), "r") as container:
        stream = container.streams.video[0]
        frames = len(list(container.decode(stream)))
        return {
            "codec": stream.codec_context.name,
            "width": stream.width,
            "height": stream.height,
            "frames": frames,
            "fps": float(stream.average_rate or 0),
        }
