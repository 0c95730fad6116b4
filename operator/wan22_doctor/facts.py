"""Everything that the checks judge by, as it was seen. Objects of the API server are plain dictionaries."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from wan22_operator import constants as names
from wan22_operator.snapshots import Snapshot, read

from app.config import AppArgs
from wan22_doctor.findings import NotSeen, Seen

Json = dict[str, Any]
LONG = 300


@dataclass(frozen=True)
class KubeRay:
    """What the cluster has of KubeRay."""

    served: frozenset[str]
    """Resources of ray.io/v1."""
    fields: Seen[frozenset[str]]
    """Fields of a RayService's ``rayClusterConfig`` in its CRD."""
    deployments: Seen[tuple[Json, ...]]
    """Deployments of KubeRay's operator; it may run outside of the cluster."""


@dataclass(frozen=True)
class Target:
    """The object that is looked at, and the RayClusters that stand for it."""

    body: Json
    clusters: tuple[Json, ...] = ()

    @property
    def obj(self) -> Snapshot:
        """The fields that the operator decides by."""
        return read(str(self.body["kind"]), self.body)

    @property
    def title(self) -> str:
        """Kind and name."""
        return f"{self.body['kind']} {self.body['metadata']['name']}"

    @property
    def resource(self) -> str:
        """Kind and name as kubectl takes them."""
        return f"{str(self.body['kind']).lower()}/{self.body['metadata']['name']}"

    @property
    def serving(self) -> Json | None:
        """The RayCluster that answers requests: the active one, else the one that comes up."""
        if self.obj.kind == names.RAY_CLUSTER:
            return self.body
        wanted = (self.obj.active_cluster, self.obj.pending_cluster)
        by_name = {cluster["metadata"]["name"]: cluster for cluster in self.clusters}
        return next((by_name[name] for name in wanted if name in by_name), None)

    @property
    def api_service(self) -> str:
        """The Service that clients call."""
        name = str(self.body["metadata"]["name"])
        if self.obj.kind == names.RAY_CLUSTER:
            return self.obj.head_service or f"{name}-head-svc"
        return str((self.body["spec"].get("serveService") or {}).get("metadata", {}).get("name") or f"{name}-serve-svc")


@dataclass(frozen=True)
class Webhook:
    """One webhook configuration, and what it needs."""

    configurations: Seen[Mapping[str, Json | None]]
    """By kind, Mutating and Validating."""
    certificate: Seen[Json | None]
    """The Secret with the certificate."""
    endpoints: Seen[int]
    """Ready pods behind its Service; as many as the operator has, where the configuration names a URL."""
    refusal: Seen[str]
    """What the API server answers to a dry run that the webhook must refuse; empty where it lets it pass."""


@dataclass(frozen=True)
class Operator:
    """This project's operator, where it follows the namespace."""

    deployment: Json
    lease: Seen[Json | None]


@dataclass(frozen=True)
class Facts:
    """What was seen. ``now`` is the API server's time, so that a laptop's clock does not matter."""

    namespace: str
    now: datetime.datetime
    kubernetes: str
    kuberay: Seen[KubeRay]
    target: Seen[Target]
    pods: Seen[tuple[Json, ...]]
    """All pods of the namespace."""
    events: Seen[tuple[Json, ...]]
    """Warnings of the namespace."""
    serve_config: Seen[str]
    endpoints: Seen[int]
    """Ready pods behind the Service that clients call."""
    operator: Seen[Operator]
    webhook: Seen[Webhook]
    head: Seen[Json]
    """What ``programs/head.py`` answered."""
    application: Seen[Json]
    """What ``programs/application.py`` answered."""
    workers: Seen[Mapping[str, Seen[Json]]]
    """What ``programs/worker.py`` answered, by pod."""
    request: Seen[Json]
    """What ``programs/request.py`` answered."""


def app_args(text: Seen[str]) -> AppArgs:
    """Return the application's arguments in a serveConfigV2; the defaults where it has none or is not readable."""
    try:
        for application in [] if isinstance(text, NotSeen) else yaml.safe_load(text)["applications"]:
            return AppArgs.model_validate(application.get("args") or {})
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError):
        pass
    return AppArgs.model_validate({})


def device_of(target: Target, text: Seen[str]) -> str:
    """Return what ranks compute on: the application's argument, else what the pods' GPUs mean."""
    group = target.obj.group
    return app_args(text).device or ("cuda" if group and group.gpus else "cpu")


def ray_pods(target: Target, pods: tuple[Json, ...]) -> list[Json]:
    """Return the pods of the target's RayClusters."""
    clusters = {cluster["metadata"]["name"] for cluster in target.clusters}
    return [pod for pod in pods if label(pod, names.CLUSTER_LABEL) in clusters]


def head_pod(pods: list[Json], cluster: str) -> Json | None:
    """Return the head pod of a RayCluster."""
    found = (
        pod
        for pod in pods
        if label(pod, names.CLUSTER_LABEL) == cluster
        and label(pod, "ray.io/node-type") == "head"
        and not pod["metadata"].get("deletionTimestamp")
    )
    return next(found, None)


def worker_pods(pods: list[Json], cluster: str) -> list[Json]:
    """Return the pods of a RayCluster's worker group, those that are leaving excepted."""
    return [
        pod
        for pod in pods
        if label(pod, names.CLUSTER_LABEL) == cluster
        and label(pod, names.GROUP_LABEL) == names.WORKER_GROUP
        and not pod["metadata"].get("deletionTimestamp")
    ]


def label(body: Json, key: str) -> str:
    """Return a label of an object, empty where it has none."""
    return str((body["metadata"].get("labels") or {}).get(key) or "")


def name_of(body: Json) -> str:
    """Return an object's name."""
    return str(body["metadata"]["name"])


def runs(pod: Json) -> bool:
    """Return whether a pod's first container runs, so that a program can be run in it."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    first = pod["spec"]["containers"][0]["name"]
    return any(one["name"] == first and "running" in (one.get("state") or {}) for one in statuses)


def age(stamp: object, now: datetime.datetime) -> float:
    """Return how many seconds ago a time stamp of the API server is; 0 where there is none."""
    if not isinstance(stamp, str) or not stamp:
        return 0.0
    return (now - datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00"))).total_seconds()


def sized(count: float) -> str:
    """Return a number of bytes as people say it."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def short(text: str) -> str:
    """Return a message on one line: of a traceback its last line, of other long texts both ends."""
    before, traceback, lines = text.partition("Traceback (most recent call last):")
    if traceback and lines.strip():
        text = f"{before} {lines.strip().splitlines()[-1]}"
    words = " ".join(text.split())
    return words if len(words) <= LONG else f"{words[: LONG // 3]} ... {words[-LONG * 2 // 3 :]}"


def spoken(seconds: float) -> str:
    """Return a duration as people say it: ``40 s``, ``12 min``, ``3 h``, ``5 d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
