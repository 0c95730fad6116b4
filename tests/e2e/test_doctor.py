"""Faults planted on a real cluster: the doctor names each, and nothing that is well."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from testing.cluster import Cluster
from testing.control_plane.manifests import ray_service
from testing.release import Release
from testing.waiting import until
from tests.e2e import planted

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """What the doctor said."""

    status: int
    seconds: float
    findings: list[Json] = field(repr=False)
    record: Callable[[str, object], None] = field(repr=False)
    """Keeps something of the running test for the end of the run."""

    def wrong(self) -> dict[str, list[str]]:
        """Return what failed, by check."""
        found: dict[str, list[str]] = {}
        for one in self.findings:
            if one["result"] == "failed":
                found.setdefault(one["check"], []).append(one["evidence"])
        return found

    def of(self, check: str) -> Json:
        """Return the first finding of a check."""
        return next(one for one in self.findings if one["check"] == check)

    def says(self, fault: str, check: str, *words: str) -> None:
        """Assert that a check names a fault in these words, and keep what it says for the table."""
        failed = [one for one in self.findings if (one["check"], one["result"]) == (check, "failed")]
        named = [one for one in failed if all(word in one["evidence"] for word in words)]
        assert named, str(self)
        one = named[0]
        self.record(planted.FAULT, (fault, check, one["evidence"], one["remedy"]))

    def __str__(self) -> str:
        return "\n".join(f"{one['check']}: {one['result']}: {one['evidence']}" for one in self.findings)


Doctor = Callable[..., Report]


@pytest.fixture
def doctor(cluster: Cluster, record_property: Callable[[str, object], None]) -> Doctor:
    """Runs the doctor as a user does, in a process of its own."""

    def run(namespace: str, *arguments: str) -> Report:
        command = [sys.executable, "-m", "wan22_doctor", "-n", namespace, "--json", *arguments]
        environment = {
            **os.environ,
            "KUBECONFIG": str(cluster.kubeconfig),
            "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}",
        }
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.stdout, done.stderr
        value = json.loads(done.stdout)
        assert value["exit_status"] == done.returncode
        return Report(done.returncode, value["seconds"], value["findings"], record_property)

    return run


def redis(release: Release, command: str) -> None:
    """Run redis-cli in the Redis pod, with its password unless ``command`` has another."""
    release.cluster.execute(release.namespace, "wan22-redis-0", "sh", "-c", f"redis-cli {command}")


def scale(release: Release, resource: str, replicas: int) -> None:
    release.cluster.kubectl("scale", resource, f"--replicas={replicas}", f"--namespace={release.namespace}")


def test_a_healthy_release_is_healthy(standing: Release, doctor: Doctor) -> None:
    report = doctor(standing.namespace)
    assert (report.status, report.wrong()) == (0, {}), str(report)
    assert "a video of" in report.of("request")["evidence"]
    assert [one["check"] for one in report.findings if one["result"] == "not checked"] == []
    report = doctor(standing.namespace, "--no-request")
    assert report.seconds < 10, str(report)


def test_a_release_that_is_not_there(standing: Release, doctor: Doctor) -> None:
    report = doctor(standing.namespace, "wan23-rayservice")
    assert report.wrong().keys() == {"cluster"}
    report.says("a misspelt name", "cluster", f"there is RayService {standing.object}")


def test_redis_with_another_password(standing: Release, doctor: Doctor) -> None:
    redis(standing, "config set requirepass other")
    try:
        report = doctor(standing.namespace, "--no-request")
    finally:
        redis(standing, '-a other --no-auth-warning config set requirepass "$REDISCLI_AUTH"')
    report.says("Redis has another password", "Redis", "from the head pod: AuthenticationError")
    assert report.wrong().keys() == {"Redis"}, str(report)


def test_redis_that_may_evict_tasks(standing: Release, doctor: Doctor) -> None:
    redis(standing, "config set maxmemory-policy allkeys-lru")
    redis(standing, "config set maxmemory 100mb")
    try:
        report = doctor(standing.namespace, "--no-request")
    finally:
        redis(standing, "config set maxmemory 0")
        redis(standing, "config set maxmemory-policy noeviction")
    assert report.wrong().keys() == {"Redis on disk"}, str(report)
    report.says("Redis may evict tasks", "Redis on disk", "allkeys-lru")


def test_redis_that_is_away(standing: Release, doctor: Doctor) -> None:
    scale(standing, "statefulset/wan22-redis", 0)
    try:
        until("Redis is gone", lambda: not standing.pods("redis"), 60, every=0.3)
        report = doctor(standing.namespace)
    finally:
        scale(standing, "statefulset/wan22-redis", 1)
    report.says("Redis is away", "Redis", "wan22-redis:6379 from")
    # Ray's head ends where it loses Redis, and comes back with it.
    assert report.wrong().keys() <= {"Redis", "API", "Ray", "pods", "cluster", "import path"}, str(report)
    assert report.of("request")["result"] == "not checked"


@contextmanager
def operator_away(release: Release) -> Iterator[None]:
    """Take the operator away, so that its webhooks refuse nothing, and bring it back."""
    scale(release, "deployment/wan22-operator", 0)
    try:
        until("the operator is gone", lambda: not release.pods("operator"), 60, every=0.3)
        yield
    finally:
        scale(release, "deployment/wan22-operator", 2)
        release.cluster.kubectl(
            "rollout", "status", "deployment/wan22-operator", f"--namespace={release.namespace}", "--timeout=120s"
        )


def test_an_operator_that_is_away_and_what_slips_in_meanwhile(standing: Release, doctor: Doctor) -> None:
    api = standing.cluster.api
    name = f"wan22-operator-{standing.namespace}"
    hooks = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}"
    with operator_away(standing):
        report = doctor(standing.namespace, "--no-request")
        assert report.wrong().keys() == {"operator", "webhook"}, str(report)
        report.says("the operator is scaled away", "operator", "is scaled to 0")
        report.says("so nobody answers the webhooks", "webhook", "no ready pod behind it")

        remove = [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
        api.request("PATCH", hooks, remove, "json-patch+json")
        standing.annotate(total_workers="three")
        report = doctor(standing.namespace, "--no-request")
        assert report.wrong().keys() == {"operator", "webhook", "resources"}, str(report)
        report.says("the webhook's caBundle is removed", "webhook", "has no caBundle")
        report.says("total-workers=three slips in", "resources", "found 'three'")
        standing.annotate(total_workers=None)

        whole = standing.body()["spec"]["serveConfigV2"]
        patch(standing, whole.replace('"import_path"', '"import_pth"'))
        report = doctor(standing.namespace, "--no-request")
        patch(standing, whole)
        report.says("a misspelt key in serveConfigV2", "serveConfigV2", "import_pth", "line")
    standing.until_ready(2)
    # An operator serves its webhooks for a moment before it has written their caBundle.
    until("the doctor finds nothing", lambda: doctor(standing.namespace, "--no-request").wrong() == {}, 60)


def patch(release: Release, serve_config: str) -> None:
    path = f"/apis/ray.io/v1/namespaces/{release.namespace}/rayservices/{release.object}"
    release.cluster.api.merge(path, {"spec": {"serveConfigV2": serve_config}})


def test_an_import_path_that_the_image_lacks(standing: Release, doctor: Doctor) -> None:
    whole = standing.body()["spec"]["serveConfigV2"]
    patch(standing, whole.replace("app.serve_app:app", "app.serve_up:app"))
    try:
        report = doctor(standing.namespace, "--no-request")
        report.says("an import path that the image lacks", "import path", "no module app.serve_up")

        def failed() -> Report | None:
            report = doctor(standing.namespace, "--no-request")
            return report if "DEPLOY_FAILED" in str(report.wrong().get("Serve")) else None

        report = until("Serve's own words", failed, 120, every=2)
        report.says("so the application does not deploy", "Serve", "app.serve_up")
    finally:
        patch(standing, whole)
        standing.until_ready(2)


def test_a_model_and_a_storage_that_are_not_there(release: Release, doctor: Doctor) -> None:
    release.install(
        "totalWorkers=1",
        "model.path=/nowhere/model",
        # A ConfigMap that every namespace has: nothing can be written where it is mounted.
        "storage.uri=file:///readonly/videos",
        "extraVolumes[0].name=readonly",
        "extraVolumes[0].configMap.name=kube-root-ca.crt",
        "extraVolumeMounts[0].name=readonly",
        "extraVolumeMounts[0].mountPath=/readonly",
        wait=False,
    )

    def named() -> Report | None:
        report = doctor(release.namespace)
        wrong = report.wrong()
        return report if {"model", "storage"} <= wrong.keys() and "MODEL_PATH" in str(wrong.get("Serve")) else None

    report = until("model, storage and Serve are named", named, 240, every=2)
    report.says("a model folder that is not mounted", "model", "'/nowhere/model' does not exist")
    report.says("a storage that cannot be written", "storage", "file:///readonly/videos", "Read-only file system")
    report.says("so the application does not deploy", "Serve", "MODEL_PATH")
    assert report.wrong().keys() <= {"model", "storage", "Serve", "API", "cluster", "pods"}, str(report)
    assert report.of("request")["result"] == "not checked"


def small(namespace: str, *, secured: bool) -> Json:
    """Return a RayService of an image that is nowhere, with more GPUs than any node has."""
    body = ray_service(namespace, gpus=64, image="localhost/nowhere:1", managed=False)
    cluster = body["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        pod["containers"][0]["resources"]["requests"] = {"cpu": "50m", "memory": "64Mi"}
        if secured:
            pod["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
            rights = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            pod["containers"][0]["securityContext"] = rights
    return body


def test_pods_without_an_image_and_without_gpus(cluster: Cluster, namespace: str, doctor: Doctor) -> None:
    cluster.apply(small(namespace, secured=True), namespace=namespace)

    def named() -> Report | None:
        report = doctor(namespace)
        said = " ".join(report.wrong().get("pods", ()))
        return report if "ImagePull" in said and "Pending" in said else None

    report = until("both pods are named", named, 120, every=1)
    report.says("an image that is nowhere", "pods", "ImagePull", "localhost/nowhere:1")
    report.says("more GPUs than there are", "pods", "Pending", "Insufficient nvidia.com/gpu")
    assert report.of("Redis")["result"] == "not checked"
    assert report.wrong().keys() == {"pods"}, str(report)


def test_pods_that_pod_security_refuses(cluster: Cluster, namespace: str, doctor: Doctor) -> None:
    cluster.apply(small(namespace, secured=False), namespace=namespace)

    def named() -> Report | None:
        report = doctor(namespace)
        return report if "cluster" in report.wrong() else None

    report = until("the cluster is named", named, 60, every=1)
    report.says("pods that Pod Security refuses", "cluster", "violates PodSecurity")
