"""What storages and gangs do to a replica's tasks."""

import base64
from typing import Any

from app.media.storage import StorageError, video_path
from app.tasks.store import Started, TaskStore
from testing.records import gang_state
from testing.replica import Routes
from tests.app.media.pictures import encoded

PICTURE = base64.b64encode(encoded("PNG", (64, 64))).decode()


class Away:
    """A storage that does not answer."""

    def __getattr__(self, verb: str) -> Any:
        def refuse(*_: object) -> None:
            raise StorageError(f"s3://secret does not {verb}")

        return refuse


async def run(store: TaskStore, task_id: str) -> Started:
    """Let a leader start the task."""
    await store.publish_gang(gang_state(f"gang of {task_id}", "here"), serving=True, ttl_seconds=30)
    assert await store.take("here", "dispatcher") is not None
    started = await store.start(task_id, "here", "leader", 4)
    assert isinstance(started, Started)
    return started


async def succeed(routes: Routes, task_id: str, video: bytes = b"0123456789") -> None:
    """Let the task end with a video, as a gang would."""
    started = await run(routes._store, task_id)
    path = video_path(task_id, started.attempt, started.token)
    routes._storage.write(video, path)
    assert await routes._store.succeed(started, path)
