"""One Ray cluster for the whole run; each test changes the application on it as far as it needs to."""

import contextlib
import os
import sys
from collections.abc import Iterator

import psutil
import pytest
import redis
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling, Scheduling

from app.tasks.embedded import EmbeddedRedis
from app.tasks.keys import PREFIX
from app.tiny_model import write_tiny_model
from testing.service import Service, running_cluster
from testing.warm_workers import warm_workers

# Blocks are compiled in the process that runs them: Inductor would start a pool of compilers in every process that
# compiles, each of which imports torch first.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

SHARED = {"ray_cluster": "tests/service/ tests/wan22_doctor/test_programs.py", "plane": "tests/control_plane/"}
"""Fixtures that exist once a run, because they take much of the machine, and the paths of the tests that use them."""

SLOW = {"rank_pool", "fresh_world"}
"""Fixtures that start rank processes: a test that uses one is slow."""

SLOW_PATHS = ("tests/charts/", *" ".join(SHARED.values()).split())
"""Tests that need Helm, a started Ray or a control plane are slow too."""


class OneOfEach(LoadFileScheduling):  # type: ignore[misc]
    """Gives each process whole files, and all files that share something large to one process.

    xdist's own way, the mark ``xdist_group``, has no effect with pytest 9.2. The process that schedules sees the names
    of tests alone, not their fixtures; therefore the paths above.
    """

    def _split_scope(self, nodeid: str) -> str:
        for fixture, paths in SHARED.items():
            if nodeid.startswith(tuple(paths.split())):
                return fixture
        return str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Answer ``pytest -n``."""
    return OneOfEach(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests; refuse one that would start a second Ray cluster or control plane."""
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        if used & SLOW or item.nodeid.startswith(SLOW_PATHS):
            item.add_marker(pytest.mark.slow)
        for fixture in used & SHARED.keys():
            if not item.nodeid.startswith(tuple(SHARED[fixture].split())):
                raise pytest.UsageError(f"{item.nodeid} uses {fixture}: name its path in SHARED of tests/conftest.py")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    # Deeper than the other tests' model: a step takes long enough for a fault to fall into the middle of a task.
    model = write_tiny_model(tmp_path_factory.mktemp("models") / "deep", layers=24)
    # Its own server: its dispatchers would take the tasks of the store's tests.
    server = EmbeddedRedis().start()
    with (
        _workers(tmp_path_factory) as py_executable,
        running_cluster(server, model, tmp_path_factory.mktemp("videos"), py_executable=py_executable) as service,
    ):
        yield service
    server.stop()


def _workers(tmp_path_factory: pytest.TempPathFactory) -> contextlib.AbstractContextManager[str]:
    """Return Ray's own way to start workers if WAN22_TESTS_COLD=1, else forks of a process that has the imports."""
    if os.environ.get("WAN22_TESTS_COLD") == "1":
        return contextlib.nullcontext(sys.executable)
    return warm_workers(tmp_path_factory.mktemp("warm"))


_KEPT = ("gang:", "gangs:", "members:", "epoch", "epochs", "alive:", "lock:")
"""Keys that describe the gangs and the release that run now, which go on from test to test. All others are of tasks."""


@pytest.fixture
def service(ray_cluster: Service) -> Iterator[Service]:
    """The service with an empty store. What a test deployed stays up: the next deploy changes only what differs."""
    with redis.Redis.from_url(ray_cluster.redis.url) as client:
        for key in client.scan_iter(f"{PREFIX}*"):
            if not key.decode().removeprefix(PREFIX).startswith(_KEPT):
                client.delete(key)
    yield ray_cluster
    for process in psutil.Process().children(recursive=True):
        # Ray ends processes of its own all the while.
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_STOPPED:
                process.resume()
