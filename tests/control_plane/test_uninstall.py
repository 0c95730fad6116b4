"""The pre-delete hook's program."""

import os
import subprocess
import sys

from testing.control_plane.operators import ROOT
from testing.waiting import until
from tests.control_plane.managed import NAME, Managed

PATHS = f"{ROOT / 'operator'}:{ROOT}"


def uninstall(managed: Managed, seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wan22_operator.uninstall", "--kind=RayService", f"--name={NAME}"]
    return subprocess.run(
        [*command, f"--namespace={managed.namespace}", f"--timeout={seconds}"],
        env={
            **os.environ,
            "KUBECONFIG": str(managed.plane.admin_kubeconfig),
            "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}",
        },
        capture_output=True,
        text=True,
    )


def test_it_returns_when_no_cluster_is_left(managed: Managed) -> None:
    managed.apply(managed=False)
    until("KubeRay made a RayCluster", managed.clusters)
    done = uninstall(managed, 30)
    assert done.returncode == 0, done.stderr
    assert not managed.clusters()
    assert uninstall(managed, 1).returncode == 0, "what is gone is gone"


def test_it_names_what_is_left_at_its_deadline(managed: Managed) -> None:
    managed.apply(managed=False)
    name = until("KubeRay made a RayCluster", managed.clusters)[0]["metadata"]["name"]
    managed.api.merge(f"{managed.base}/rayclusters/{name}", {"metadata": {"finalizers": ["test.example/stuck"]}})
    done = uninstall(managed, 2)
    assert done.returncode == 1
    assert f"RayCluster {managed.namespace}/{name} (finalizers: " in done.stderr
    assert "test.example/stuck" in done.stderr
