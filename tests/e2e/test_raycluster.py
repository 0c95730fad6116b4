"""`kind: RayCluster`: by hand where the chart was told not to deploy, then by the operator."""

import subprocess

import pytest

import tools
from tests.e2e.cluster import Cluster
from tests.e2e.release import Release
from tests.waiting import until

SETTINGS = ("kind=RayCluster", "totalWorkers=2", "gpusPerWorker=1")


@pytest.fixture
def release(cluster: Cluster, namespace: str) -> Release:
    """A release that the test installs, of a RayCluster."""
    return Release(cluster, namespace, kind="RayCluster")


def test_serve_run_by_hand_then_the_operator(cluster: Cluster, release: Release) -> None:
    release.install(*SETTINGS, "app.deploy=false", wait=False)
    until("the Ray pods run", lambda: len(release.pods("ray-worker")) == 2 and _joined(release), 120, every=1)
    (head,) = release.pod_names("ray-head")
    by_hand = ("serve", "run", "--name", "wan22", "app.serve_app:app", "total_workers=2", "device=cpu")
    small = ("api_cpus=0.1", "leader_cpus=0.1", "rank_cpus=0.5")
    command = [str(tools.binary("kubectl")), f"--kubeconfig={cluster.kubeconfig}", "exec", head]
    command += [f"--namespace={release.namespace}", "--", *by_hand, *small]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        until("its gang stands", lambda: [gang["have"] for gang in release.gangs()] == [2], 120, every=1)
        assert release.make("by-hand")["attempt"] == 1
        running.terminate()
    cluster.execute(release.namespace, head, "serve", "shutdown", "--yes")

    release.helm("upgrade", *SETTINGS)
    release.until_ready(2)
    assert release.make("deployed")["attempt"] == 1
    release.annotate(total_workers=4)
    release.until_ready(4)
    assert release.make("resized")["attempt"] == 1
    release.annotate(total_workers=None)
    release.until_ready(2)


def _joined(release: Release) -> bool:
    (head,) = release.pod_names("ray-head")
    script = "import ray; ray.init(log_to_driver=False); print(sum(node['Alive'] for node in ray.nodes()))"
    try:
        return release.cluster.execute(release.namespace, head, "python", "-c", script).split()[-1] == "3"
    except AssertionError:
        return False
