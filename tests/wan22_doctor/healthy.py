"""The facts of a healthy RayService of one gang on two pods; each test spoils one of them."""

import base64
import copy
import datetime
import json
from typing import Any

from wan22_doctor.facts import Facts, KubeRay, Operator, Target, Webhook
from wan22_operator.certificates import Certificates, current

from testing.control_plane.manifests import ray_cluster_spec, ray_service

Json = dict[str, Any]

NOW = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.UTC)
SPACE, NAME, CLUSTER = "videos", "wan22-rayservice", "wan22-rayservice-x7k2p"
HEAD, WORKERS = f"{CLUSTER}-head-aaaaa", (f"{CLUSTER}-gpu-workers-worker-bbbbb", f"{CLUSTER}-gpu-workers-worker-ccccc")
IPS = ("10.0.0.11", "10.0.0.12")
CERTIFICATES: Certificates = current(None, ["wan22-operator-webhook.videos.svc"], NOW)


def ago(seconds: float) -> str:
    """Return a time stamp as the API server writes it."""
    return (NOW - datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, status: str = "True", reason: str = "", message: str = "", since: float = 3600) -> Json:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": ago(since)}


def service() -> Json:
    """Return the RayService, resized once by the operator."""
    body = ray_service(SPACE, NAME)
    status = {
        "phase": "ready",
        "wanted": {"totalWorkers": 2, "gangs": 1},
        "have": {"totalWorkers": 2, "gangs": 1},
        "message": "",
    }
    body["metadata"] |= {"creationTimestamp": ago(7200), "generation": 3, "uid": "u1"}
    body["metadata"]["annotations"] |= {
        "wan22.dev/active-workers": "2",
        "wan22.dev/active-gangs": "1",
        "wan22.dev/active-pods": "2",
        "wan22.dev/status": json.dumps(status),
    }
    body["status"] = {
        "observedGeneration": 3,
        "numServeEndpoints": 3,
        "activeServiceStatus": {"rayClusterName": CLUSTER},
        "conditions": [condition("Ready", reason="NonZeroServeEndpoints"), condition("UpgradeInProgress", "False")],
    }
    return body


def cluster() -> Json:
    """Return the RayCluster that KubeRay made of it."""
    return {
        "metadata": {
            "name": CLUSTER,
            "namespace": SPACE,
            "creationTimestamp": ago(7200),
            "ownerReferences": [{"kind": "RayService", "name": NAME}],
        },
        "spec": ray_cluster_spec(2, 1, "wan22:1"),
        "status": {"conditions": [condition("HeadPodReady"), condition("RayClusterProvisioned")]},
    }


def pod(name: str, node_type: str, group: str, container: str, *, limits: Json, ip: str = "") -> Json:
    return {
        "metadata": {
            "name": name,
            "namespace": SPACE,
            "creationTimestamp": ago(7200),
            "labels": {"ray.io/cluster": CLUSTER, "ray.io/node-type": node_type, "ray.io/group": group},
        },
        "spec": {
            "containers": [
                {
                    "name": container,
                    "resources": {"limits": limits},
                    "volumeMounts": [{"name": "videos", "mountPath": "/videos"}],
                }
            ],
            "volumes": [{"name": "videos", "persistentVolumeClaim": {"claimName": "wan22-videos"}}],
        },
        "status": {
            "phase": "Running",
            "podIP": ip,
            "startTime": ago(7200),
            "conditions": [condition("PodScheduled"), condition("Ready")],
            "containerStatuses": [
                {
                    "name": container,
                    "restartCount": 0,
                    "ready": True,
                    "state": {"running": {"startedAt": ago(7000)}},
                    "lastState": {},
                }
            ],
        },
    }


def pods() -> tuple[Json, ...]:
    limits = {"cpu": "4", "memory": "64Gi", "nvidia.com/gpu": "1"}
    workers = [
        pod(name, "worker", "gpu-workers", "ray-worker", limits=limits, ip=ip)
        for name, ip in zip(WORKERS, IPS, strict=True)
    ]
    return pod(HEAD, "head", "headgroup", "ray-head", limits={"memory": "8Gi"}, ip="10.0.0.10"), *workers


def gang() -> Json:
    """Return the gang as /readyz lists it: rank 0 and the leader on the first pod."""
    nodes = []
    for rank, ip in enumerate(IPS):
        environment = {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": IPS[0],
            "MASTER_PORT": "41234",
        }
        ranks = [{"rank": rank, "pid": 700 + rank, "environment": environment}]
        nodes.append({"node_id": f"n{rank}", "ip": ip, "leader": rank == 0, "ranks": ranks})
    return {
        "id": "abc",
        "cluster": f"{SPACE}/{CLUSTER}",
        "pid": 600,
        "task_id": None,
        "wanted": 2,
        "have": 2,
        "phase": "ready",
        "message": "",
        "nodes": nodes,
    }


def head() -> Json:
    """Return the answer of ``programs/head.py``, in the shape of a real Ray, Serve and Redis."""
    rows = [{"node_ip": "10.0.0.10", "is_head_node": True, "state": "ALIVE", "resources_total": {"memory": 8e9}}]
    rows += [
        {"node_ip": ip, "is_head_node": False, "state": "ALIVE", "resources_total": {"CPU": 4.0, "GPU": 1.0}}
        for ip in IPS
    ]
    application = json.loads(service()["spec"]["serveConfigV2"])["applications"][0]
    deployments = {
        "APIEntrypoint": {
            "status": "HEALTHY",
            "message": "",
            "target_num_replicas": 2,
            "replicas": [{"state": "RUNNING"}, {"state": "RUNNING"}],
        },
        "VideoGenerator": {
            "status": "HEALTHY",
            "message": "",
            "target_num_replicas": 1,
            "replicas": [{"state": "RUNNING"}],
        },
    }
    details = {"status": "RUNNING", "message": "", "deployments": deployments, "deployed_app_config": application}
    url = f"http://{NAME}-serve-svc.{SPACE}:8000/readyz"
    ready = {"ready": True, "cluster": f"{SPACE}/{CLUSTER}", "message": "", "gangs": [gang()]}
    dashboard = "http://127.0.0.1:8265"
    return {
        "nodes": _answer(f"{dashboard}/api/v0/nodes", {"data": {"result": {"result": rows}}}),
        "waiting": _answer(f"{dashboard}/api/v0/placement_groups", {"data": {"result": {"result": []}}}),
        "applications": _answer(f"{dashboard}/api/serve/applications/", {"applications": {"wan22": details}}),
        "readyz": _answer(url, ready),
        "redis": {
            "server": "wan22-redis:6379",
            "seconds": 0.002,
            "version": "8.1.4",
            "config": {
                "appendonly": "yes",
                "appendfsync": "always",
                "maxmemory": "0",
                "maxmemory-policy": "noeviction",
            },
        },
        "versions": {"ray": "2.60.0", "wan22-rayservice": "0.1.0"},
    }


def _answer(url: str, body: object) -> Json:
    return {"url": url, "status": 200, "body": body, "seconds": 0.012}


def worker() -> Json:
    """Return the answer of ``programs/worker.py`` in a pod with one GPU."""
    return {
        "torch": {
            "version": "2.11.0+cu130",
            "nccl": "2.28.9",
            "cuda": "13.0",
            "available": True,
            "count": 1,
            "names": ["NVIDIA H200"],
            "seconds": 3.1,
        },
        "model": {
            "path": "/models/wan",
            "pipeline": "WanPipeline",
            "heads": 40,
            "weights": 12,
            "bytes": 126_000_000_000,
            "broken": [],
        },
        "storage": {"uri": "file:///videos", "seconds": 0.01, "free": 90 * 10**9, "root": "/videos"},
        "redis": {"server": "wan22-redis:6379"},
    }


def operator_deployment() -> Json:
    return {
        "metadata": {"name": "wan22-operator", "namespace": SPACE},
        "spec": {
            "replicas": 2,
            "template": {"spec": {"containers": [{"name": "operator", "image": "wan22-operator:0.1.0"}]}},
        },
        "status": {"availableReplicas": 2},
    }


def lease() -> Json:
    return {
        "metadata": {"name": "wan22-operator"},
        "spec": {"holderIdentity": "wan22-operator-1", "leaseDurationSeconds": 10, "renewTime": ago(1)},
    }


def webhook() -> Webhook:
    bundle = base64.b64encode(CERTIFICATES.ca.encode()).decode()
    configurations: dict[str, Json | None] = {
        kind: {
            "metadata": {"name": "wan22-operator-videos"},
            "webhooks": [{"name": f"{kind.lower()}.wan22.dev", "clientConfig": {"caBundle": bundle}}],
        }
        for kind in ("Mutating", "Validating")
    }
    refusal = 'admission webhook "validate.wan22.dev" denied the request: annotation wan22.dev/total-workers: found ...'
    return Webhook(configurations, {"data": CERTIFICATES.secret_data()}, 2, refusal)


def kuberay_deployment() -> Json:
    image = "quay.example/kuberay/operator:v1.6.1"
    return {
        "metadata": {"name": "kuberay-operator", "namespace": "kuberay"},
        "spec": {"template": {"spec": {"containers": [{"name": "kuberay-operator", "image": image}]}}},
        "status": {"availableReplicas": 1},
    }


def facts() -> Facts:
    """Return all facts; every call returns a new copy, which a test may change."""
    return copy.deepcopy(
        Facts(
            namespace=SPACE,
            now=NOW,
            kubernetes="v1.34.4",
            kuberay=KubeRay(
                frozenset({"rayclusters", "rayservices", "rayjobs"}),
                frozenset({"authOptions", "headGroupSpec"}),
                (kuberay_deployment(),),
            ),
            target=Target(service(), (cluster(),)),
            pods=pods(),
            events=(),
            serve_config=service()["spec"]["serveConfigV2"],
            endpoints=3,
            operator=Operator(operator_deployment(), lease()),
            webhook=webhook(),
            head=head(),
            application={"built": True, "problems": []},
            workers={name: worker() for name in WORKERS},
            request={
                "task_id": "doctor-1",
                "status": "succeeded",
                "seconds": 4.2,
                "submit_seconds": 0.03,
                "started_seconds": 0.1,
                "attempt": 1,
                "video_bytes": 5000,
            },
        )
    )
