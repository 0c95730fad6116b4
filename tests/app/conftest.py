"""Real parts that the app's tests share: one Redis server, one pool of rank processes and one tiny model a run."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from app.tasks.embedded import EmbeddedRedis
from app.tasks.store import TaskStore
from app.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from testing.rank_pool import RankPool


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def two_expert_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "two-experts", two_experts=True)


@pytest.fixture(scope="session")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As I2V-A14B: two experts, and every video begins from a picture."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "image", two_experts=True, image="required")


@pytest.fixture(scope="session")
def text_or_image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As TI2V-5B: a video may begin from a picture."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "text-or-image", image="optional")


@pytest.fixture(scope="session")
def rank_pool() -> "Iterator[RankPool]":
    from testing.rank_pool import RankPool  # it imports torch, which most tests do without

    rank_pool = RankPool()
    yield rank_pool
    rank_pool.close()


@pytest.fixture
async def store(redis_server: EmbeddedRedis) -> AsyncIterator[TaskStore]:
    """An empty store with a lease of a second."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    store = TaskStore.connect(redis_server.url, lease_seconds=1, task_ttl_seconds=60, max_queued_tasks=50)
    yield store
    await store.close()
