"""The API over a real task store and a real storage, without Ray and without gangs."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from ray import serve

from app.config import AppOptions
from app.http.content import Contents
from app.http.entrypoint import api
from app.media.storage import Storage
from app.model.folder import ModelFolder
from app.tasks.store import TaskStore
from tests.app.http.replica import Routes


@pytest.fixture
def routes(store: TaskStore, text_or_image_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Routes:
    # Not by __init__, which needs Serve and starts the dispatcher.
    routes = Routes.__new__(Routes)
    routes._store, routes._storage = store, Storage(f"file://{tmp_path}")
    routes._model = ModelFolder.read(str(text_or_image_model))
    routes._contents = Contents()
    routes._cluster = "here"
    routes._max_queued_tasks = 50
    routes._max_request_cost = AppOptions().max_request_cost
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(servable_object=routes))
    return routes


@pytest.fixture
async def http(routes: Routes) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://service") as client:
        yield client
