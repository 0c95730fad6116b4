"""One cluster for the whole run, a namespace for every test, and what went on in it where a test fails.

E2E_KUBECONFIG names the kubeconfig of an existing cluster with KubeRay, instead of a node of this machine. Its nodes
have the images wan22-rayservice:VERSION and wan22-operator:VERSION (`make images`), or E2E_VALUES names a file of
chart values that says where they are.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from testing.cluster import Cluster, CommandFailed
from testing.control_plane.api import Refused
from testing.release import Release
from testing.waiting import until
from tests.e2e import planted
from tests.e2e.diagnosis import diagnose
from tools.node import host, images, place

HERE = Path(__file__).parent
TEST_SECONDS = 900
_numbers = itertools.count(1)
_leaving: list[str] = []
"""Paths of namespaces on their way out; the next test need not wait for them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a test with real pods the time that it needs."""
    for item in items:
        if HERE in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the pods, the Events and the ends of the logs of a test that failed."""
    report = yield
    found = getattr(item, "funcargs", {})
    if report.failed and report.when != "teardown" and "cluster" in found:
        places = [found["namespace"]] if "namespace" in found else []
        places += [found["standing"].namespace] if "standing" in found else []
        for name in places:
            report.sections.append((f"Namespace {name} when it failed", diagnose(found["cluster"], name)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a table of the faults that the doctor named."""
    if table := planted.table(terminalreporter.getreports("passed")):
        Console(width=120).print("", table)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster of E2E_KUBECONFIG, or the node of this machine, started unless it runs; it stays afterwards."""
    folder = tmp_path_factory.mktemp("cluster")
    existing, values = os.environ.get("E2E_KUBECONFIG"), [HERE / "values.yaml"]
    if existing:
        values += [Path(os.environ["E2E_VALUES"])] if os.environ.get("E2E_VALUES") else []
        cluster = Cluster(Path(existing), folder, values)
    else:
        here = place.default()
        host.up(here)
        images.load(here)
        cluster = Cluster(here.kubeconfig, folder, [*values, HERE / "node-values.yaml"], here.log)
    yield cluster
    until("every namespace of the tests is gone", lambda: not any(map(cluster.api.get, _leaving)), 240, every=0.5)
    cluster.stop()


@pytest.fixture
def namespaces(cluster: Cluster) -> Iterator[Callable[[], str]]:
    """Makes namespaces of the test's own, with Pod Security "restricted"; they go with everything in them."""
    made: list[str] = []

    def make() -> str:
        name = f"e2e-{os.getpid()}-{next(_numbers)}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        cluster.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        made.append(name)
        return name

    yield make
    for name in made:
        _remove(cluster, name)


@pytest.fixture
def namespace(namespaces: Callable[[], str]) -> str:
    """A namespace of the test's own."""
    return namespaces()


@pytest.fixture
def release(cluster: Cluster, namespace: str) -> Iterator[Release]:
    """A release that the test installs, of a RayService."""
    release = Release(cluster, namespace)
    yield release
    release.close()


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Iterator[Release]:
    """One release that many tests share, a worker pod for every rank; ask for ``standing`` instead."""
    name = f"e2e-{os.getpid()}-standing"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    release = Release(cluster, name)
    try:
        release.install("totalWorkers=2", "gpusPerWorker=1")
        yield release
    finally:
        release.close()
        _remove(cluster, name)


@pytest.fixture
def standing(cluster: Cluster, installed: Release) -> Release:
    """The shared release: one gang of two ranks on two pods, all Ready, whatever the test before it did."""
    installed.annotate(total_workers=None, gangs=None)
    installed.until_ready(2)
    installed.until_settled()
    return installed


def _remove(cluster: Cluster, namespace: str) -> None:
    """Remove a namespace at once, whatever state the test left it in."""
    for name in cluster.helm("list", f"--namespace={namespace}", "--short").split():
        with contextlib.suppress(CommandFailed):
            cluster.helm("uninstall", name, f"--namespace={namespace}", "--no-hooks")
    ray = f"/apis/ray.io/v1/namespaces/{namespace}"
    for kind in ("rayservices", "rayclusters"):
        for item in cluster.api.request("GET", f"{ray}/{kind}")["items"]:
            path = f"{ray}/{kind}/{item['metadata']['name']}"
            # KubeRay may be done with it between two of these requests.
            with contextlib.suppress(Refused):
                cluster.api.request("DELETE", path)
                if item["metadata"].get("finalizers") and cluster.api.get(path):
                    cluster.api.merge(path, {"metadata": {"finalizers": []}})
    cluster.kubectl("delete", "pods", "--all", f"--namespace={namespace}", "--grace-period=0", "--force")
    path = f"/api/v1/namespaces/{namespace}"
    cluster.api.delete(path)
    _leaving.append(path)
