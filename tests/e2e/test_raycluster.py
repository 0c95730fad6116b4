"""`kind: RayCluster`: by hand where the chart was told not to deploy, then by the operator."""

import json
import subprocess
from collections.abc import Iterator

import pytest

import tools
from testing.cluster import Cluster, CommandFailed
from testing.control_plane.api import Json
from testing.release import ENDED, Release
from testing.waiting import until

SETTINGS = ("kind=RayCluster", "totalWorkers=2", "gpusPerWorker=1")


@pytest.fixture
def release(cluster: Cluster, namespace: str) -> Iterator[Release]:
    """A release that the test installs, of a RayCluster."""
    release = Release(cluster, namespace, kind="RayCluster")
    yield release
    release.close()


def test_serve_run_by_hand_then_the_operator(cluster: Cluster, release: Release) -> None:
    release.install(*SETTINGS, "app.deploy=false", wait=False)
    until("the Ray pods run", lambda: len(release.pods("ray-worker")) == 2 and _joined(release), 120, every=1)
    (head,) = release.pod_names("ray-head")
    by_hand = ("serve", "run", "--name", "wan22", "app.serve_app:app", "total_workers=2", "device=cpu")
    small = ("api_cpus=0.1", "leader_cpus=0.1", "rank_cpus=0.5")
    command = [str(tools.binary("kubectl")), f"--kubeconfig={cluster.kubeconfig}", "exec", head]
    command += [f"--namespace={release.namespace}", "--", *by_hand, *small]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # It listens on the head pod's loopback alone.
        until("its gang stands", lambda: [gang["have"] for gang in _gangs(release)] == [2], 180, every=0.5)
        _inside(release, "generate", {"task_id": "by-hand"})
        task = until("it ends", lambda: _ended(release, "by-hand"), 120, every=0.5)
        assert (task["status"], task["attempt"]) == ("succeeded", 1)
    finally:
        running.kill()
        running.wait()
    cluster.execute(release.namespace, head, "serve", "shutdown", "--yes")

    release.helm("upgrade", *SETTINGS)
    release.until_ready(2)
    assert release.make("deployed")["attempt"] == 1
    release.annotate(total_workers=4)
    release.until_ready(4)
    assert release.make("resized")["attempt"] == 1
    release.annotate(total_workers=None)
    release.until_ready(2)


ASK = """
import json, sys, urllib.request
body = sys.argv[2].encode() or None
request = urllib.request.Request(f"http://localhost:8000/{sys.argv[1]}", body, {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=10).read().decode())
"""


def _inside(release: Release, path: str, body: Json | None = None) -> Json:
    """Ask the API from within the head pod; empty while it does not answer."""
    (head,) = release.pod_names("ray-head")
    text = json.dumps(body) if body else ""
    try:
        answer: Json = json.loads(release.cluster.execute(release.namespace, head, "python", "-c", ASK, path, text))
    except CommandFailed:
        return {}
    return answer


def _gangs(release: Release) -> list[Json]:
    return list(_inside(release, "readyz").get("gangs", ()))


def _ended(release: Release, task_id: str) -> Json | None:
    task = _inside(release, f"generate/{task_id}")
    return task if task.get("status") in ENDED else None


def _joined(release: Release) -> bool:
    (head,) = release.pod_names("ray-head")
    script = "import ray; ray.init(log_to_driver=False); print(sum(node['Alive'] for node in ray.nodes()))"
    try:
        return release.cluster.execute(release.namespace, head, "python", "-c", script).split()[-1] == "3"
    except CommandFailed:
        return False
