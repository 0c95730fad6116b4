"""The pre-delete hook's program."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.control_plane.operators import CHART
from testing.control_plane.plane import ADMIN_TOKEN
from testing.waiting import until
from tests.control_plane.managed import NAME, Managed

Uninstall = Callable[[Managed, float], subprocess.CompletedProcess[str]]


@pytest.fixture
def uninstall(tmp_path: Path) -> Uninstall:
    """Run the program against a control plane for at most some seconds."""
    token = tmp_path / "token"
    token.write_text(ADMIN_TOKEN)

    def run(managed: Managed, seconds: float) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(CHART / "files" / "uninstall.py"), "--kind=RayService", f"--name={NAME}"]
        return subprocess.run(
            [*command, f"--namespace={managed.namespace}", f"--timeout={seconds}"],
            env={
                "API_SERVER": managed.plane.url,
                "TOKEN_FILE": str(token),
                "CA_FILE": str(managed.plane.folder / "ca.crt"),
            },
            capture_output=True,
            text=True,
        )

    return run


def test_it_returns_when_no_cluster_is_left(managed: Managed, uninstall: Uninstall) -> None:
    managed.apply(managed=False)
    until("KubeRay made a RayCluster", managed.clusters)
    done = uninstall(managed, 30)
    assert done.returncode == 0, done.stderr
    assert not managed.clusters()
    assert uninstall(managed, 1).returncode == 0, "what is gone is gone"


def test_it_names_what_is_left_at_its_deadline(managed: Managed, uninstall: Uninstall) -> None:
    managed.apply(managed=False)
    name = until("KubeRay made a RayCluster", managed.clusters)[0]["metadata"]["name"]
    managed.api.merge(f"{managed.base}/rayclusters/{name}", {"metadata": {"finalizers": ["test.example/stuck"]}})
    done = uninstall(managed, 2)
    assert done.returncode == 1
    assert f"RayCluster {managed.namespace}/{name} (finalizers: " in done.stderr
    assert "test.example/stuck" in done.stderr
