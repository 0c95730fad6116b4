"""The node itself: it leaves nothing behind, however it ends. Each test has one of its own, beside the shared one."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.cluster import Cluster, ready
from testing.waiting import until
from tools.node import host, images
from tools.node.place import BASE_IMAGE, Place

POD = {
    "metadata": {"name": "pod"},
    "spec": {"containers": [{"name": "pod", "image": BASE_IMAGE, "resources": {"limits": {"memory": "64Mi"}}}]},
}


@pytest.fixture
def place() -> Iterator[Place]:
    # The path of a socket has 104 characters at most; those of the tests' own folders may be longer.
    with tempfile.TemporaryDirectory(prefix="node-") as folder:
        place = Place(Path(folder))
        yield place
        host.down(place)


def with_a_pod(place: Place, folder: Path) -> None:
    """Start the node and a pod on it."""
    folder.mkdir()
    images.make_base(place)
    images.bring(place, BASE_IMAGE)
    cluster = Cluster(place.kubeconfig, folder)
    try:
        service_account = "/api/v1/namespaces/default/serviceaccounts/default"
        until("the namespace has its service account", lambda: cluster.api.get(service_account))
        cluster.api.request("POST", "/api/v1/namespaces/default/pods", POD)
        until("a pod runs", lambda: any(ready(pod) for pod in cluster.pods("default")), 60, every=0.2)
    finally:
        cluster.stop()


def traces(place: Place) -> list[str]:
    """Return what the machine still has of a node: mounts, control groups, network links, processes."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place.root) in line]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{place.cgroup}")]
    groups += [str(path) for path in Path("/sys/fs/cgroup").glob(place.cgroup)]
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [
        *mounts,
        *groups,
        *(line for line in links if line.startswith(("node0", "nowhere", "cni0", "veth"))),
        *(line for line in listed if str(place.root) in line),
    ]


def test_a_node_that_is_ended_leaves_nothing(place: Place, tmp_path: Path) -> None:
    before = traces(place)
    assert host.up(place)
    with_a_pod(place, tmp_path / "tests")
    assert not host.up(place), "it runs already"
    assert host.down(place)
    assert traces(place) == before
    assert not place.run.exists()
    assert not host.down(place), "there was none"


def test_a_killed_node_leaves_nothing_and_starts_anew(place: Place, tmp_path: Path) -> None:
    before = traces(place)
    host.up(place)
    with_a_pod(place, tmp_path / "first")
    first = host.running(place)
    assert first
    os.kill(first, signal.SIGKILL)
    until("its first process is dead", lambda: host.running(place) is None)
    assert host.up(place), "it was started again"
    with_a_pod(place, tmp_path / "second")
    host.down(place)
    assert traces(place) == before


def test_a_node_says_which_of_its_programs_failed(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "assets" / "etcd"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\n[ $1 != --version ] || exec echo etcd Version: 3.6.0\necho no space left; exit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(broken.parent))
    with pytest.raises(host.HostError, match=r"etcd ended with status 3(.|\n)*no space left"):
        host.up(place)
    assert not host.running(place)
