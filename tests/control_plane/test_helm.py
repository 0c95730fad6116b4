"""The chart's life on a real API server with Helm itself: server-side apply, never by force."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from testing.control_plane.api import Json
from testing.control_plane.operators import CHART, RELEASE, Operator, helm
from testing.ports import free_port
from testing.waiting import until
from tests.control_plane.managed import Managed

SETTINGS = ["model.path=/models/Wan2.2-T2V-A14B", "ray.clusterDeletionDelaySeconds=1"]


class Release:
    """One release of the chart in the test's namespace."""

    def __init__(self, managed: Managed) -> None:
        self.managed = managed
        self.port = free_port()
        self.operators: list[Operator] = []

    def run(self, verb: str, *sets: str) -> None:
        """Install or upgrade with these values."""
        command = [verb, RELEASE, str(CHART), "--namespace", self.managed.namespace]
        for value in [*SETTINGS, f"webhook.url=https://127.0.0.1:{self.port}", *sets]:
            command += ["--set", value]
        helm(self.managed.plane, *command)

    def rollback(self, revision: int) -> None:
        """Go back to a revision."""
        helm(self.managed.plane, "rollback", RELEASE, str(revision), "--namespace", self.managed.namespace)

    def start_operator(self) -> Operator:
        """Start an operator as the release says."""
        operator = Operator(self.managed.plane, self.managed.namespace, f"operator-{len(self.operators)}", self.port)
        self.operators.append(operator)
        return operator.start().wait()


@pytest.fixture
def release(managed: Managed) -> Iterator[Release]:
    release = Release(managed)
    yield release
    for operator in release.operators:
        operator.stop()
    helm(managed.plane, "uninstall", RELEASE, "--namespace", managed.namespace, "--no-hooks", check=False)


def test_upgrades_and_rollbacks_pass_whatever_the_operator_wrote(managed: Managed, release: Release) -> None:
    release.run("install", "totalWorkers=2")
    release.start_operator()
    managed.until_settled(2)

    managed.annotate(total_workers=4)
    managed.until_settled(4)
    name, generation = managed.cluster_name(), managed.service()["metadata"]["generation"]
    release.run("upgrade", "totalWorkers=2")
    assert managed.service()["metadata"]["generation"] == generation, "an equal upgrade changes nothing"

    release.run("upgrade", "totalWorkers=8")
    assert managed.config()[0] == 4, "an annotation beats the values"
    managed.annotate(total_workers=None)
    managed.until_settled(8)

    managed.annotate(total_workers=5)
    managed.until_settled(5)
    release.run("upgrade", "totalWorkers=8", "image.tag=2")
    until("a new image means a new cluster", lambda: managed.cluster_name() not in ("", name), 60)
    managed.until_settled(5)

    release.rollback(1)
    managed.until_settled(5)
    managed.annotate(total_workers=None)
    managed.until_settled(2)
    assert not managed.events("WroteSpecDirectly")


def test_values_count_where_no_annotation_stands(managed: Managed, release: Release) -> None:
    release.run("install", "totalWorkers=2")
    release.start_operator()
    managed.until_settled(2)
    release.run("upgrade", "totalWorkers=4")
    managed.until_settled(4)
    release.run("upgrade", "totalWorkers=4", "gangs=2")
    managed.until_settled(4, gangs=2)


def test_the_operator_can_be_switched_off_and_on_again(managed: Managed, release: Release) -> None:
    release.run("install", "totalWorkers=2")
    operator = release.start_operator()
    managed.annotate(total_workers=4)
    managed.until_settled(4)

    release.run("upgrade", "totalWorkers=2", "operator.enabled=false")
    operator.stop()
    pods = managed.workers()
    release.run("upgrade", "totalWorkers=2", "operator.enabled=false", "app.maxQueuedTasks=7")
    assert managed.workers() == pods

    release.run("upgrade", "totalWorkers=2")
    release.start_operator()
    managed.until_settled(4)
    managed.annotate(total_workers=None)
    managed.until_settled(2)


def test_uninstalling_leaves_nothing_even_while_the_operator_is_dead(managed: Managed, release: Release) -> None:
    release.run("install", "totalWorkers=2")
    operator = release.start_operator()
    managed.until_settled(2)
    operator.kill()
    arguments = ["uninstall", RELEASE, "--namespace", managed.namespace, "--timeout", "90s"]
    with ThreadPoolExecutor(1) as background:
        uninstall = background.submit(helm, managed.plane, *arguments)
        _play_hook(managed)
        uninstall.result(100)
    assert _left(managed) == []


def _play_hook(managed: Managed) -> None:
    """Be the node of the hook's pod: run its command as its service account, and report its end."""
    pods = f"/api/v1/namespaces/{managed.namespace}/pods"

    def hook() -> Json | None:
        items = managed.api.request("GET", pods, labelSelector="app.kubernetes.io/component=uninstall")["items"]
        return items[0] if items else None

    pod = until("the hook's pod is there", hook, 30)
    assert pod
    account = pod["spec"]["serviceAccountName"]
    container = pod["spec"]["containers"][0]
    token = managed.plane.folder / f"{managed.namespace}-hook.token"
    token.write_text(managed.plane.token(managed.namespace, account))
    program = managed.api.request("GET", f"/api/v1/namespaces/{managed.namespace}/configmaps/{RELEASE}-uninstall")
    assert container["command"] == ["python", "/scripts/uninstall.py"]
    done = subprocess.run(
        [sys.executable, "-c", program["data"]["uninstall.py"], *container["args"]],
        env={
            "API_SERVER": managed.plane.url,
            "TOKEN_FILE": str(token),
            "CA_FILE": str(managed.plane.folder / "ca.crt"),
        },
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    status = {"phase": "Succeeded", "containerStatuses": []}
    managed.api.merge(f"{pods}/{pod['metadata']['name']}/status", {"status": status})


def _left(managed: Managed) -> list[str]:
    """Return every object of the release that is still there."""
    instance = f"app.kubernetes.io/instance={RELEASE}"
    places = [
        (f"/api/v1/namespaces/{managed.namespace}", ("secrets", "services", "configmaps", "serviceaccounts")),
        (f"/apis/apps/v1/namespaces/{managed.namespace}", ("deployments", "statefulsets")),
        (f"/apis/rbac.authorization.k8s.io/v1/namespaces/{managed.namespace}", ("roles", "rolebindings")),
        (f"/apis/coordination.k8s.io/v1/namespaces/{managed.namespace}", ("leases",)),
        (f"/apis/batch/v1/namespaces/{managed.namespace}", ("jobs",)),
        (managed.base, ("rayservices", "rayclusters")),
    ]
    cluster_wide = [
        ("/apis/rbac.authorization.k8s.io/v1", ("clusterroles", "clusterrolebindings")),
        (
            "/apis/admissionregistration.k8s.io/v1",
            ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
        ),
    ]
    left = []
    for base, plurals in [*places, *cluster_wide]:
        for plural in plurals:
            items = managed.api.request("GET", f"{base}/{plural}", labelSelector=instance)["items"]
            names = [item["metadata"]["name"] for item in items]
            mine = [name for name in names if (base, plurals) in places or name.endswith(f"-{managed.namespace}")]
            left += [f"{plural}/{name}" for name in mine]
    left += [f"rayclusters/{item['metadata']['name']}" for item in managed.clusters()]
    return left


def test_a_ray_cluster_release_is_resized_upgraded_and_rolled_back(managed: Managed, release: Release) -> None:
    name = f"{RELEASE}-ray-cluster"
    path = f"{managed.base}/rayclusters/{name}"

    def settled(workers: int) -> None:
        def look() -> bool:
            body = managed.cluster(name)
            status = json.loads(body["metadata"]["annotations"].get("wan22.dev/status", "{}"))
            counts = {"totalWorkers": workers, "gangs": 1}
            return (
                status.get("phase") == "ready"
                and status["have"] == counts == status["wanted"]
                and body["spec"]["workerGroupSpecs"][0]["replicas"] == workers == len(managed.workers(name))
                and managed.head(name).counts() == (workers, 1, workers)
            )

        until(f"settled at {workers}", look, 60)

    release.run("install", "kind=RayCluster", "totalWorkers=2")
    release.start_operator()
    settled(2)
    assert any(token.startswith("Bearer ") for token in managed.head(name).tokens), "Ray's token is used"
    managed.api.merge(path, {"metadata": {"annotations": {"wan22.dev/total-workers": "4"}}})
    settled(4)
    managed.api.merge(path, {"metadata": {"annotations": {"wan22.dev/total-workers": "1"}}})
    settled(1)
    release.run("upgrade", "kind=RayCluster", "totalWorkers=5")
    settled(1)
    managed.api.merge(path, {"metadata": {"annotations": {"wan22.dev/total-workers": None}}})
    settled(5)
    release.rollback(1)
    settled(2)
    assert not managed.events("WroteSpecDirectly")


def test_the_budget_of_the_worker_pods_follows_the_gangs(managed: Managed, release: Release) -> None:
    path = f"/apis/policy/v1/namespaces/{managed.namespace}/poddisruptionbudgets/{RELEASE}-workers"

    def least() -> object:
        return managed.api.request("GET", path)["spec"].get("minAvailable")

    release.run("install", "totalWorkers=2", "podDisruptionBudget.enabled=true")
    release.start_operator()
    managed.until_settled(2)
    until("a drain may take one of two", lambda: least() == 1)
    managed.annotate(total_workers=4)
    managed.until_settled(4)
    until("a drain may take one of four", lambda: least() == 3)
    release.run("upgrade", "totalWorkers=2", "podDisruptionBudget.enabled=true", "commonLabels.a=b")
    assert least() == 3, "Helm leaves the field to the operator"
    managed.annotate(total_workers=1)
    managed.until_settled(1)
    until("a drain may take the only one", lambda: least() == 0)
