"""The facts that the checks judge. Objects of the API server are plain dictionaries."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wan22_operator import constants as names
from wan22_operator.snapshots import Snapshot, read

from app.config import AppArgs
from serve_config.document import compose, plain
from wan22_doctor.findings import Cause, NotSeen, NotSeenError, Seen

Json = dict[str, Any]
LONG = 300
"""Characters of a message that are shown."""


@dataclass(frozen=True)
class KubeRay:
    """KubeRay as it is installed in the cluster."""

    served: frozenset[str]
    """Resources of ray.io/v1."""
    fields: Seen[frozenset[str]]
    """Fields of a RayService's ``rayClusterConfig`` in its CRD."""
    deployments: Seen[tuple[Json, ...]]
    """Deployments of KubeRay's operator; none if it runs outside the cluster."""


@dataclass(frozen=True)
class Target:
    """The object that is examined."""

    body: Json
    clusters: tuple[Json, ...] = ()
    """The RayClusters that KubeRay made for it; of a RayCluster, itself."""

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
        """Kind and name, as kubectl accepts them."""
        return f"{str(self.body['kind']).lower()}/{self.body['metadata']['name']}"

    @property
    def serving(self) -> Json | None:
        """The RayCluster that answers requests: the active one, else the pending one."""
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
            return self.obj.head_service
        return str((self.body["spec"].get("serveService") or {}).get("metadata", {}).get("name") or f"{name}-serve-svc")


@dataclass(frozen=True)
class Webhook:
    """The webhooks: their configurations, their certificate, their pods and their answer."""

    configurations: Seen[Mapping[str, Json | None]]
    """The two configurations, by "Mutating" and "Validating"; None if one does not exist."""
    certificate: Seen[Json | None]
    """The Secret with the certificate."""
    endpoints: Seen[int]
    """Ready pods behind the webhooks' Service."""
    refusal: Seen[str]
    """The message with which the webhook refused a wrong annotation in a dry run; empty if it let all of them pass."""
    missed: int = 0
    """How many of the dry runs it let pass."""


@dataclass(frozen=True)
class Operator:
    """The operator of this project that follows the namespace."""

    deployment: Json
    lease: Seen[Json | None]


@dataclass(frozen=True)
class Facts:
    """All facts. ``now`` is the API server's time, so that a laptop's clock does not matter."""

    namespace: str
    now: datetime.datetime
    kubernetes: str
    kuberay: Seen[KubeRay]
    target: Seen[Target]
    pods: Seen[tuple[Json, ...]]
    """All pods of the namespace."""
    events: Seen[tuple[Json, ...]]
    """Warning Events of the namespace."""
    serve_config: Seen[str]
    """The text of serveConfigV2."""
    endpoints: Seen[int]
    """Ready pods behind the Service that clients call."""
    operator: Seen[Operator]
    webhook: Seen[Webhook]
    head: Seen[Json]
    """The answer of ``programs/head.py``."""
    application: Seen[Json]
    """The answer of ``programs/application.py``."""
    workers: Seen[Mapping[str, Seen[Json]]]
    """The answers of ``programs/worker.py``, by pod."""
    request: Seen[Json]
    """The answer of ``programs/request.py``."""


def choose(bodies: list[Json], name: str, namespace: str) -> Json:
    """Return the object to examine: the named one, else the only managed one, else the only one.

    Raises:
        NotSeenError: no object fits, or more than one does.
    """
    own = [body for body in bodies if not read(body["kind"], body).owner]
    listed = ", ".join(f"{body['kind']} {name_of(body)}" for body in own)
    if name:
        # The name of a RayCluster that a RayService made stands for the RayService.
        named = [body for body in bodies if name_of(body) == name]
        owner = read(named[0]["kind"], named[0]).owner if named else ""
        found = [body for body in own if name_of(body) == (owner or name)]
        if not found:
            why = (
                f"namespace {namespace} has no RayService and no RayCluster {name}; there is {listed or 'none at all'}"
            )
            raise NotSeenError(NotSeen(why, f"kubectl -n {namespace} get rayservice,raycluster", Cause.FAULT))
        return found[0]
    managed = [body for body in own if read(body["kind"], body).managed]
    found = managed if len(managed) == 1 else own
    if len(found) == 1:
        return found[0]
    if not found:
        why = f"namespace {namespace} has no RayService and no RayCluster"
        remedy = "install the chart in it, or find its namespace: kubectl get rayservice,raycluster -A"
        raise NotSeenError(NotSeen(why, remedy, Cause.FAULT))
    raise NotSeenError(
        NotSeen(f"namespace {namespace} has {listed}", "give the name of one of them as an argument", Cause.BLIND)
    )


def app_args(text: Seen[str]) -> AppArgs:
    """Return the application's arguments in a serveConfigV2; the defaults if it has none or is not readable."""
    try:
        config: Any = {"applications": []} if isinstance(text, NotSeen) else plain(compose(text))
        for application in config["applications"]:
            return AppArgs.model_validate(application.get("args") or {})
    except (KeyError, TypeError, AttributeError, ValueError):
        pass
    return AppArgs.model_validate({})


def device_of(target: Target, text: Seen[str]) -> str:
    """Return the device of the ranks: the application's argument, else "cuda" if the pods have GPUs, else "cpu"."""
    group = target.obj.group
    return app_args(text).device or ("cuda" if group and group.gpus else "cpu")


def ray_pods(target: Target, pods: tuple[Json, ...]) -> list[Json]:
    """Return the pods of the target's RayClusters."""
    clusters = {cluster["metadata"]["name"] for cluster in target.clusters}
    return [pod for pod in pods if label(pod, names.CLUSTER_LABEL) in clusters]


def head_pod(pods: list[Json], cluster: str) -> Json | None:
    """Return the head pod of a RayCluster; None if it has none that is not being deleted."""
    found = (
        pod
        for pod in pods
        if label(pod, names.CLUSTER_LABEL) == cluster
        and label(pod, names.NODE_TYPE_LABEL) == "head"
        and not pod["metadata"].get("deletionTimestamp")
    )
    return next(found, None)


def undeleted_worker_pods(pods: list[Json], cluster: str) -> list[Json]:
    """Return the pods of a RayCluster's worker group that are not being deleted."""
    return [
        pod
        for pod in pods
        if label(pod, names.CLUSTER_LABEL) == cluster
        and label(pod, names.GROUP_LABEL) == names.WORKER_GROUP
        and not pod["metadata"].get("deletionTimestamp")
    ]


def label(body: Json, key: str) -> str:
    """Return a label of an object; empty if it does not have it."""
    return str((body["metadata"].get("labels") or {}).get(key) or "")


def name_of(body: Json) -> str:
    """Return an object's name."""
    return str(body["metadata"]["name"])


def runs(pod: Json) -> bool:
    """Return True if a pod's first container runs, so that a program can be run in it."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    first = pod["spec"]["containers"][0]["name"]
    return any(one["name"] == first and "running" in (one.get("state") or {}) for one in statuses)


def age(stamp: object, now: datetime.datetime) -> float:
    """Return the seconds from a time stamp of the API server to ``now``; 0 if there is none."""
    if not isinstance(stamp, str) or not stamp:
        return 0.0
    return (now - datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00"))).total_seconds()


def sized(count: float) -> str:
    """Return a number of bytes as text, such as ``1.5 GB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def short(text: str) -> str:
    """Return a message on one line: the last line of a traceback; the beginning and the end of another long text."""
    before, traceback, lines = text.partition("Traceback (most recent call last):")
    if traceback and lines.strip():
        text = f"{before} {lines.strip().splitlines()[-1]}"
    words = " ".join(text.split())
    return words if len(words) <= LONG else f"{words[: LONG // 3]} ... {words[-LONG * 2 // 3 :]}"


def spoken(seconds: float) -> str:
    """Return a duration as text: ``40 s``, ``12 min``, ``3 h``, ``5 d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
