"""``kubectl wan22`` with the real kubectl, API server and operator; there is no kubelet, so no pod can be reached."""

import json
from pathlib import Path

from testing.control_plane.operators import Operator
from testing.kubectl_plugin import kubectl_wan22
from tests.control_plane.managed import Managed


def test_it_scales_a_release_and_shows_its_status(managed: Managed, operator: Operator, tmp_path: Path) -> None:
    managed.apply()
    managed.until_settled(2)
    kubeconfig, here = managed.plane.admin_kubeconfig, ("-n", managed.namespace)
    done = kubectl_wan22(kubeconfig, tmp_path, "scale", *here, "--workers", 4, "--gangs", 2, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    counts = {"totalWorkers": 4, "gangs": 2}
    status = {name: found["status"][name] for name in ("phase", "wanted", "have", "message")}
    assert status == {"phase": "ready", "wanted": counts, "have": counts, "message": ""}
    assert managed.settled(4, 2), "it waited"
    done = kubectl_wan22(kubeconfig, tmp_path, "scale", *here, "--workers", 7)
    assert (done.returncode, "7 ranks have no parallel plan" in done.stderr) == (2, True)
    done = kubectl_wan22(kubeconfig, tmp_path, "status", *here)
    assert (done.returncode, "ready: 2 gangs of 4 ranks" in done.stdout) == (1, True), done.stderr
    assert "does not have a host assigned" in done.stdout
