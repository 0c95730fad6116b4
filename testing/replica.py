"""A replica of APIEntrypoint without Serve: its real routes over a real task store and storage, without gangs."""

from types import SimpleNamespace
from typing import Self

import pytest
from ray import serve

from app.config import AppOptions
from app.http.content import Contents
from app.http.entrypoint import APIEntrypoint
from app.media.storage import Storage
from app.model.folder import ModelFolder
from app.tasks.store import TaskStore


class Routes(APIEntrypoint):
    """The deployment's class without what it starts."""

    @classmethod
    def over(cls, store: TaskStore, storage: Storage, model: ModelFolder) -> Self:
        """Return a replica that keeps its tasks and files there."""
        # Not by __init__, which needs Serve and starts the dispatcher.
        routes = cls.__new__(cls)
        routes._store, routes._storage, routes._model = store, storage, model
        routes._contents = Contents()
        routes._cluster = "here"
        routes._max_queued_tasks = 50
        routes._max_request_cost = AppOptions().max_request_cost
        return routes

    def __del__(self) -> None:  # type: ignore[override]  # Serve awaits the other; nothing runs here.
        pass

    def serve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the routes of ``api`` find this replica, as Serve does in a replica's process."""
        monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(servable_object=self))
