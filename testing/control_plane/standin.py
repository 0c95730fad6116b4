"""Stand-ins for what a control plane without nodes lacks. They are no Ray and no kubelet, and say so.

``Heads`` is an HTTP proxy that answers in place of every Ray head: KubeRay and the operator reach it through
HTTP_PROXY, by the same names and ports as in a cluster. ``Kubelet`` marks the pods of Ray clusters as running.
"""

import json
import threading
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import yaml

from app.tasks.gang_state import GangNode, GangPhase, GangRank, GangState
from testing.control_plane.api import Api, Json

SAYS = "a stand-in, no Ray runs here"


@dataclass
class Head:
    """One Ray head: Serve's configuration, and gangs that take pods as the app's gangs would."""

    cluster: str
    configs: list[Json] = field(default_factory=list)
    """Every Serve configuration it was given."""
    gangs: list[list[str]] = field(default_factory=list)
    """The pod IP of every rank, gang by gang."""
    resizes: bool = True
    """False freezes the gangs as they are."""
    tokens: list[str] = field(default_factory=list)
    asked: int = 0

    def counts(self) -> tuple[int, int, int]:
        """Return total_workers, gangs and API replicas of the newest configuration; zeros before there is one."""
        if not self.configs:
            return 0, 0, 0
        application = self.configs[-1]["applications"][0]
        deployments = {item["name"]: item for item in application["deployments"]}
        generator = deployments["VideoGenerator"]
        pods = deployments["APIEntrypoint"]["num_replicas"]
        return generator["user_config"]["total_workers"], generator["num_replicas"], pods

    def work(self, pods: dict[str, int]) -> None:
        """Let the gangs take the next step towards the configuration; ``pods`` has the GPUs of every pod's IP."""
        if not self.configs:
            return
        workers, gangs, _ = self.counts()
        self.gangs = [[ip for ip in gang if ip in pods] for gang in self.gangs]
        if not self.resizes:
            return
        self.gangs = self.gangs[:gangs] + [[] for _ in range(gangs - len(self.gangs))]
        for index, gang in enumerate(self.gangs):
            del gang[workers:]
            free = dict(pods)
            for ip in (ip for other in self.gangs for ip in other):
                free[ip] -= 1
            places = [ip for ip in sorted(free, key=lambda ip: ip not in gang) for _ in range(max(0, free[ip]))]
            if len(gang) + len(places) >= workers:
                self.gangs[index] = gang + places[: workers - len(gang)]


class Heads:
    """Answers for every Ray head in the control plane."""

    def __init__(self) -> None:
        self.heads: dict[tuple[str, str], Head] = {}
        self.pods: dict[tuple[str, str], dict[str, int]] = {}
        """GPUs of every running worker pod's IP, by namespace and cluster."""
        self.lock = threading.RLock()
        heads = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(heads.get(self.path, self.headers.get("Authorization", "")))

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer(heads.put(self.path, json.loads(body)))

            def _answer(self, answer: tuple[int, Any]) -> None:
                status, value = answer
                content = value.encode() if isinstance(value, str) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Server", SAYS)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """Say nothing: a client that was killed is no error here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def head(self, namespace: str, cluster: str) -> Head:
        """Return the head of a cluster."""
        with self.lock:
            return self.heads.setdefault((namespace, cluster), Head(cluster))

    def get(self, url: str, token: str) -> tuple[int, Any]:
        """Answer a GET."""
        place = self._place(url)
        path = urllib.parse.urlsplit(url).path
        if place is None:
            return 200, "success"
        with self.lock:
            head, pods = self.head(*place), self.pods.get(place, {})
            head.asked += 1
            head.tokens.append(token)
            head.work(pods)
            if path == "/readyz":
                return self._readyz(head)
            if path == "/api/v0/nodes":
                rows = [
                    {"node_ip": ip, "node_id": f"node-{ip}", "is_head_node": False, "state": "ALIVE"} for ip in pods
                ]
                rows.append({"node_ip": "10.99.0.1", "node_id": "head", "is_head_node": True, "state": "ALIVE"})
                return 200, {"result": True, "data": {"result": {"total": len(rows), "result": rows}}}
            if path == "/api/serve/applications/":
                return 200, {"applications": self._applications(head)}
        return 404, {"message": SAYS}

    def put(self, url: str, body: Json) -> tuple[int, Any]:
        """Answer a PUT, the one of a Serve configuration."""
        place = self._place(url)
        assert place is not None
        with self.lock:
            self.head(*place).configs.append(body)
        return 200, {}

    def _place(self, url: str) -> tuple[str, str] | None:
        host = urllib.parse.urlsplit(url).hostname or ""
        parts = host.split(".")
        if not parts[0].endswith("-head-svc"):
            return None
        return parts[1], parts[0].removesuffix("-head-svc")

    def _readyz(self, head: Head) -> tuple[int, Any]:
        if not head.configs:
            return 404, {"message": SAYS}
        workers, gangs, _ = head.counts()
        shown = [
            _gang(index, head.cluster, workers, gang).model_dump(mode="json") for index, gang in enumerate(head.gangs)
        ]
        ready = len(shown) == gangs and all(item["have"] == workers for item in shown)
        return (200 if ready else 503), {"ready": ready, "cluster": head.cluster, "gangs": shown}

    def _applications(self, head: Head) -> Json:
        if not head.configs:
            return {}
        return {
            application["name"]: {
                "name": application["name"],
                "route_prefix": "/",
                "status": "RUNNING",
                "message": SAYS,
                "deployments": {
                    item["name"]: {
                        "name": item["name"],
                        "status": "HEALTHY",
                        "message": "",
                        "replicas": _replicas(item["name"], head),
                    }
                    for item in application.get("deployments", ())
                },
                "deployed_app_config": application,
            }
            for application in head.configs[-1].get("applications", ())
        }


class Kubelet:
    """Marks pods of Ray clusters as running, unless their namespace is held, and takes note of their GPUs."""

    def __init__(self, api: Api, heads: Heads) -> None:
        self.held: set[str] = set()
        self._api, self._heads = api, heads
        self._ips: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop marking pods."""
        self._stop.set()
        self._thread.join(15)

    def release(self, namespace: str) -> None:
        """Let the pods of a held namespace run."""
        self.held.discard(namespace)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                pods = self._api.request("GET", "/api/v1/pods", labelSelector="ray.io/cluster")["items"]
            except (httpx.HTTPError, AssertionError):
                self._stop.wait(0.3)
                continue
            seen: dict[tuple[str, str], dict[str, int]] = {}
            for pod in pods:
                self._see(pod, seen)
            with self._heads.lock:
                self._heads.pods = seen
            self._stop.wait(0.15)

    def _see(self, pod: Json, seen: dict[tuple[str, str], dict[str, int]]) -> None:
        meta = pod["metadata"]
        if meta["namespace"] in self.held and pod["status"].get("phase") != "Running":
            return
        number = len(self._ips) + 2
        ip = self._ips.setdefault(meta["uid"], f"10.99.{number // 250}.{number % 250}")
        if pod["status"].get("phase") == "Pending" and not meta.get("deletionTimestamp"):
            self._mark(pod, ip)
        if meta["labels"].get("ray.io/node-type") == "worker" and not meta.get("deletionTimestamp"):
            limits = pod["spec"]["containers"][0].get("resources", {}).get("limits", {})
            place = meta["namespace"], meta["labels"]["ray.io/cluster"]
            seen.setdefault(place, {})[ip] = max(1, int(limits.get("nvidia.com/gpu", 1)))

    def _mark(self, pod: Json, ip: str) -> None:
        meta = pod["metadata"]
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        conditions = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady", "Initialized")]
        containers = [
            {
                "name": item["name"],
                "image": item["image"],
                "imageID": "",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for item in pod["spec"]["containers"]
        ]
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "hostIP": "10.99.0.1",
            "startTime": now,
            "conditions": conditions,
            "containerStatuses": containers,
        }
        if meta["labels"].get("ray.io/node-type") == "redis-cleanup":
            status |= {"phase": "Succeeded", "containerStatuses": []}
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        try:
            self._api.merge(path, {"status": status})
        except AssertionError:
            return


def _replicas(deployment: str, head: Head) -> list[Json]:
    """Return a deployment's replicas as Serve lists them: of VideoGenerator one for each gang, in its first pod."""
    if deployment != "VideoGenerator":
        return []
    return [{"state": "RUNNING", "node_ip": gang[0] if gang else None} for gang in head.gangs]


def configuration(text: str) -> Json:
    """Return a serveConfigV2 as its value."""
    value: Json = yaml.safe_load(text)
    return value


def _gang(index: int, cluster: str, workers: int, addresses: Sequence[str]) -> GangState:
    """Return the report of a gang with one rank at each of ``addresses``."""
    ranks: dict[str, list[GangRank]] = {}
    for number, ip in enumerate(addresses):
        ranks.setdefault(ip, []).append(GangRank(rank=number, pid=1, attention="native", environment={}))
    return GangState(
        id=f"gang-{index}",
        cluster=cluster,
        pid=1,
        task_id=None,
        wanted=workers,
        have=len(addresses),
        phase=GangPhase.READY if len(addresses) == workers else GangPhase.RESIZING,
        message=SAYS,
        nodes=[
            GangNode(node_id=f"node-{ip}", ip=ip, leader=ip == addresses[0], ranks=found) for ip, found in ranks.items()
        ],
    )
