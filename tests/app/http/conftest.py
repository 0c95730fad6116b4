"""The API over a real task store and a real storage, without Ray and without gangs."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.http.entrypoint import api
from app.media.storage import Storage
from app.model.folder import ModelFolder
from app.tasks.store import TaskStore
from testing.replica import Routes


@pytest.fixture
def routes(store: TaskStore, text_or_image_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Routes:
    routes = Routes.over(store, Storage(f"file://{tmp_path}"), ModelFolder.read(str(text_or_image_model)))
    routes.serve(monkeypatch)
    return routes


@pytest.fixture
async def http(routes: Routes) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://service") as client:
        yield client
