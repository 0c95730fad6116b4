"""The fields of a RayService or RayCluster that the operator decides by, taken out of the whole object."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_config.worker_group import container, ray_cpus, ray_gpus
from wan22_operator import constants as names

Body = Mapping[str, Any]


@dataclass(frozen=True)
class WorkerGroup:
    """The worker group ``gpu-workers`` of an object's spec."""

    path: str
    """JSON pointer to the group in its object."""
    replicas: int | None
    minimum: int | None
    maximum: int | None
    hosts: int
    ranks_per_pod: int
    """Ranks that one worker pod holds: one on each GPU; one on a pod without GPUs."""
    gpus: int
    """GPUs that Ray counts on a worker pod."""
    cpus: int | None
    """CPUs that Ray counts on a worker pod; None if nothing bounds them."""
    workers_to_delete: tuple[str, ...]
    """Pods that ``scaleStrategy`` names; KubeRay deletes them."""
    has_scale_strategy: bool

    @property
    def pods_asked(self) -> int:
        """Worker pods that KubeRay makes: the replicas within their bounds."""
        return min(max(self.replicas or 0, self.minimum or 0), sys.maxsize if self.maximum is None else self.maximum)


@dataclass(frozen=True)
class Snapshot:
    """One object at one resourceVersion."""

    kind: str
    namespace: str
    name: str
    uid: str = ""
    resource_version: str = ""
    managed: bool = False
    operator: str = ""
    """The operator that alone follows the object; empty if any may."""
    deleting: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Annotations of this project only."""
    has_annotations: bool = False
    """True if the object has annotations, this project's or others."""
    serve_config: str = ""
    group: WorkerGroup | None = None
    autoscaling: bool = False
    """True if Ray's autoscaler sets the replicas (enableInTreeAutoscaling)."""
    suspended: bool = False
    creation_fails: bool = False
    """On a RayCluster: KubeRay cannot create pods (condition ReplicaFailure), because of a quota for example."""
    owner: str = ""
    """On a RayCluster: the RayService that made it; empty if none did."""
    generation: int = 0
    """Grows with each change of the spec."""
    observed_generation: int = 0
    """On a RayService: the generation at which KubeRay last decided whether a new RayCluster is due."""
    active_cluster: str = ""
    """On a RayService: the RayCluster that serves."""
    pending_cluster: str = ""
    """On a RayService: the RayCluster of an upgrade that is under way."""
    head_service: str = ""
    """On a RayCluster: the Service of its head."""
    model_path: str = ""
    """MODEL_PATH of the worker pods; empty if their spec does not hold it."""
    written_directly: int | None = None
    """Index of the ``managedFields`` that hold what the operator wrote because no webhook did; None for none."""
    token_secret: str = ""
    """Secret that holds Ray's token; empty if Ray asks for none."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Kind, namespace and name, which identify the object."""
        return self.kind, self.namespace, self.name

    @property
    def version(self) -> int:
        """The resourceVersion as a number, which grows with each change of any object of its kind."""
        return int(self.resource_version) if self.resource_version.isdigit() else 0

    @property
    def standalone(self) -> bool:
        """True for a RayCluster that no RayService made."""
        return self.kind == names.RAY_CLUSTER and not self.owner


def read(kind: str, body: Body) -> Snapshot:
    """Take a snapshot of an object of the API server. Fields that are missing or of another type count as empty."""
    meta, spec, status = _map(body, "metadata"), _map(body, "spec"), _map(body, "status")
    cluster, root = spec, "/spec"
    if kind == names.RAY_SERVICE:
        cluster, root = _map(spec, "rayClusterConfig"), "/spec/rayClusterConfig"
    annotations = _map(meta, "annotations")
    owners = [owner for owner in meta.get("ownerReferences") or () if owner.get("kind") == names.RAY_SERVICE]
    auth = _map(cluster, "authOptions")
    name = str(meta.get("name", ""))
    token = str(auth.get("secretName") or name) if auth.get("mode") == "token" else ""
    return Snapshot(
        kind=kind,
        namespace=str(meta.get("namespace", "")),
        name=name,
        uid=str(meta.get("uid", "")),
        resource_version=str(meta.get("resourceVersion", "")),
        managed=_map(meta, "labels").get(names.MANAGED) == "true",
        operator=str(_map(meta, "labels").get(names.OPERATED_BY, "")),
        deleting=bool(meta.get("deletionTimestamp")),
        annotations={key: str(value) for key, value in annotations.items() if key.startswith(names.PREFIX)},
        has_annotations=bool(annotations),
        serve_config=str(spec.get("serveConfigV2") or "") if kind == names.RAY_SERVICE else "",
        group=_group(cluster, root),
        autoscaling=cluster.get("enableInTreeAutoscaling") is True,
        suspended=cluster.get("suspend") is True,
        creation_fails=any(
            one.get("type") == "ReplicaFailure" and one.get("status") == "True"
            for one in status.get("conditions") or ()
        ),
        owner=str(owners[0].get("name", "")) if owners else "",
        generation=whole_number(meta.get("generation")) or 0,
        observed_generation=whole_number(status.get("observedGeneration")) or 0,
        active_cluster=str(_map(status, "activeServiceStatus").get("rayClusterName") or ""),
        pending_cluster=str(_map(status, "pendingServiceStatus").get("rayClusterName") or ""),
        model_path=_model_path(cluster),
        head_service=str(_map(status, "head").get("serviceName") or f"{name}-head-svc"),
        written_directly=next(
            (n for n, one in enumerate(meta.get("managedFields") or ()) if one.get("manager") == names.DIRECT), None
        ),
        token_secret=token,
    )


def whole_number(value: object, least: int = 0) -> int | None:
    """Return an integer, or a string of one, as an int; None if it is neither or is below ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        number = int(value)
    except ValueError:
        return None
    return number if number >= least else None


def names_in(text: str | None) -> tuple[str, ...]:
    """Return the pod names in a ``workers-to-delete`` annotation; none if it is absent or unreadable."""
    try:
        value = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _group(cluster: Body, root: str) -> WorkerGroup | None:
    for index, group in enumerate(cluster.get("workerGroupSpecs") or ()):
        if group.get("groupName") == names.WORKER_GROUP:
            gpus = ray_gpus(group)
            strategy = _map(group, "scaleStrategy")
            return WorkerGroup(
                path=f"{root}/workerGroupSpecs/{index}",
                replicas=whole_number(group.get("replicas")),
                minimum=whole_number(group.get("minReplicas")),
                maximum=whole_number(group.get("maxReplicas")),
                hosts=whole_number(group.get("numOfHosts")) or 1,
                ranks_per_pod=max(1, gpus),
                gpus=gpus,
                cpus=ray_cpus(group),
                workers_to_delete=tuple(strategy.get("workersToDelete") or ()),
                has_scale_strategy="scaleStrategy" in group,
            )
    return None


def _model_path(cluster: Body) -> str:
    for group in cluster.get("workerGroupSpecs") or ():
        if group.get("groupName") == names.WORKER_GROUP:
            for variable in container(group).get("env") or ():
                if variable.get("name") == "MODEL_PATH":
                    return str(variable.get("value") or "")
    return ""


def _map(value: Body, key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}
