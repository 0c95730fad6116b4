"""The pre-delete hook's program."""

import os
import subprocess
import sys

from tests.control_plane.operators import ROOT
from tests.control_plane.world import NAME, World
from tests.waiting import until

PATHS = f"{ROOT / 'operator'}:{ROOT}"


def uninstall(world: World, seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wan22_operator.uninstall", "--kind=RayService", f"--name={NAME}"]
    return subprocess.run(
        [*command, f"--namespace={world.namespace}", f"--timeout={seconds}"],
        env={
            **os.environ,
            "KUBECONFIG": str(world.plane.admin_kubeconfig),
            "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}",
        },
        capture_output=True,
        text=True,
    )


def test_it_returns_when_no_cluster_is_left(world: World) -> None:
    world.apply(managed=False)
    until("KubeRay made a RayCluster", world.clusters)
    done = uninstall(world, 30)
    assert done.returncode == 0, done.stderr
    assert not world.clusters()
    assert uninstall(world, 1).returncode == 0, "what is gone is gone"


def test_it_names_what_is_left_at_its_deadline(world: World) -> None:
    world.apply(managed=False)
    name = until("KubeRay made a RayCluster", world.clusters)[0]["metadata"]["name"]
    world.api.merge(f"{world.base}/rayclusters/{name}", {"metadata": {"finalizers": ["test.example/stuck"]}})
    done = uninstall(world, 2)
    assert done.returncode == 1
    assert f"RayCluster {world.namespace}/{name} (finalizers: " in done.stderr
    assert "test.example/stuck" in done.stderr
