"""One Ray cluster for the whole run; each test changes the application on it as far as it needs to."""

import contextlib
from collections.abc import Iterator

import psutil
import pytest
import redis

from app.task_store.embedded import EmbeddedRedis
from app.tiny_model import write_tiny_model
from tests.app.service.harness import Service, running_cluster
from tests.app.service.warm import warm_workers


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
