"""One control plane for the whole run; a namespace of its own for every test."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testing.control_plane.api import Api, Json, path_of
from testing.control_plane.operators import Operator, operator_objects
from testing.control_plane.plane import ControlPlane
from testing.ports import free_port
from tests.control_plane.managed import Managed

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with KubeRay."""
    plane = ControlPlane(tmp_path_factory.mktemp("control-plane"))
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def api(plane: ControlPlane) -> Api:
    """The API server, as its administrator."""
    return plane.admin


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"t{next(_numbers)}"
    plane.admin.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    plane.kubelet.held.discard(name)
    for kind in ("rayservices", "rayclusters"):
        for item in plane.admin.request("GET", f"/apis/ray.io/v1/namespaces/{name}/{kind}")["items"]:
            plane.admin.merge(
                f"/apis/ray.io/v1/namespaces/{name}/{kind}/{item['metadata']['name']}", {"metadata": {"finalizers": []}}
            )
    plane.admin.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def managed(plane: ControlPlane, namespace: str) -> Managed:
    """What a test looks at."""
    return Managed(plane, namespace)


@pytest.fixture
def operators(plane: ControlPlane, namespace: str) -> Iterator[Callable[..., Operator]]:
    """Starts operators of the chart; the first call also makes the chart's objects."""
    started: list[Operator] = []
    made: list[Json] = []

    def start(*sets: str, wait: bool = True, **environment: Any) -> Operator:
        port = started[0].port if started else free_port()
        if not started:
            made.extend(operator_objects(namespace, f"webhook.url=https://127.0.0.1:{port}", *sets))
            for body in made:
                plane.admin.apply(body, manager="helm")
        operator = Operator(plane, namespace, f"operator-{len(started)}", port, **environment)
        started.append(operator)
        operator.start()
        return operator.wait() if wait else operator

    yield start
    for operator in started:
        operator.stop()
    for body in made:
        if "namespace" not in body["metadata"]:
            plane.admin.delete(path_of(body))


@pytest.fixture
def operator(operators: Callable[..., Operator]) -> Operator:
    """One operator with webhooks."""
    return operators()
