"""One Ray cluster for the whole run; each test changes the application on it as far as it needs to."""

import contextlib
from collections.abc import Iterator

import psutil
import pytest
import redis
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling, Scheduling

from app.tasks.embedded import EmbeddedRedis
from app.tiny_model import write_tiny_model
from testing.service import Service, running_cluster
from testing.warm_workers import warm_workers

SHARED = {
    "tests/service/": "Ray",
    "tests/wan22_doctor/test_programs.py": "Ray",
    "tests/control_plane/": "control plane",
}
"""What there is once a run, by the tests that use it."""


class OneOfEach(LoadFileScheduling):  # type: ignore[misc]
    """Gives each process whole files, and all files that share something large to one process.

    xdist's own way, the mark ``xdist_group``, has no effect with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((thing for path, thing in SHARED.items() if nodeid.startswith(path)), super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Answer ``pytest -n``."""
    return OneOfEach(config, log)


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    # Deeper than the other tests' model: a step takes long enough for a fault to fall into the middle of a task.
    model = write_tiny_model(tmp_path_factory.mktemp("models") / "deep", layers=24)
    # A server of its own: its dispatchers would take the tasks of the store's tests.
    server = EmbeddedRedis().start()
    with (
        warm_workers(tmp_path_factory.mktemp("warm")) as py_executable,
        running_cluster(server, model, tmp_path_factory.mktemp("videos"), py_executable=py_executable) as service,
    ):
        yield service
    server.stop()


@pytest.fixture
def service(ray_cluster: Service) -> Iterator[Service]:
    """The service with an empty store. What a test deployed stays up: the next deploy changes only what differs."""
    with redis.Redis.from_url(ray_cluster.redis.url) as client:
        for key in client.scan_iter("wan22:*"):
            name = key.decode()
            if name.startswith(
                ("wan22:task", "wan22:queue", "wan22:leases", "wan22:out", "wan22:ended", "wan22:grace")
            ):
                client.delete(key)
    yield ray_cluster
    for process in psutil.Process().children(recursive=True):
        # Ray ends processes of its own all the while.
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_STOPPED:
                process.resume()
