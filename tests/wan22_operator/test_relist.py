"""Lists make up for what watches do not tell: missed changes, deletions, and types that were installed late."""

import asyncio
import time
from typing import Any

import pytest
from wan22_operator import constants as names
from wan22_operator import kube as kube_module
from wan22_operator import relist as relist_module
from wan22_operator.kube import object_path
from wan22_operator.object_cache import ObjectCache
from wan22_operator.relist import Relist
from wan22_operator.snapshots import Snapshot

from testing.control_plane.manifests import ray_service
from testing.waiting import until_async
from tests.wan22_operator.fake_kube import FakeKube

SERVICES, CLUSTERS = (object_path(kind, "ns", "").rstrip("/") for kind in names.PLURALS)
KEY = (names.RAY_SERVICE, "ns", "wan22-rayservice")


class Lists:
    """An API server that lists what ``items`` holds, and the operator's lists of it."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        self.cache = ObjectCache()
        self.told: list[tuple[str, bool]] = []
        self.restarts = 0
        self.relist = Relist(self.kube, self.cache, namespaces=["ns"], saw=self.saw, seconds=60, restart=self.restart)
        self.list()

    def list(self, *versions: int, at: int = 9) -> None:
        """Have RayServices listed, one for each version; the list itself is made at version ``at``."""
        items = [ray_service("ns", name=KEY[2] if n == 0 else f"s{n}") for n, _ in enumerate(versions)]
        for item, version in zip(items, versions, strict=True):
            item["metadata"] |= {"resourceVersion": str(version), "uid": "u"}
        self.kube.store(CLUSTERS, {"items": []})
        self.kube.store(SERVICES, {"items": items})
        for path in (SERVICES, CLUSTERS):
            self.kube.objects[path]["metadata"]["resourceVersion"] = str(at)

    def saw(self, obj: Snapshot, gone: bool) -> None:
        self.told.append((obj.name, gone))
        (self.cache.remove if gone else self.cache.put)(obj)

    def restart(self) -> None:
        self.restarts += 1


async def test_a_change_that_no_watch_told_is_told_once() -> None:
    lists = Lists()
    lists.list(3)
    await lists.relist.start()
    await lists.relist.start()
    lists.list(4)
    await lists.relist.start()
    assert lists.told == [(KEY[2], False)] * 2
    assert lists.cache.get(KEY) is not None
    assert lists.cache.get(KEY).version == 4  # type: ignore[union-attr]


async def test_a_deletion_that_no_watch_told_is_told() -> None:
    lists = Lists()
    lists.list(3)
    await lists.relist.start()
    lists.list(at=8)
    await lists.relist.start()
    assert lists.told == [(KEY[2], False), (KEY[2], True)]
    assert lists.cache.get(KEY) is None


async def test_what_a_watch_told_after_the_list_was_made_is_not_taken_for_deleted() -> None:
    lists = Lists()
    lists.list(10, at=10)
    await lists.relist.start()
    lists.list(at=9)
    await lists.relist.start()
    assert lists.cache.get(KEY) is not None


async def test_a_list_of_several_pages_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = Lists()
    pages = [
        {"metadata": {"resourceVersion": "5", "continue": "next"}, "items": [ray_service("ns")]},
        {"metadata": {"resourceVersion": "7"}, "items": [ray_service("ns", name="second")]},
    ]
    asked: list[dict[str, str]] = []

    async def get(path: str, **query: str) -> Any:
        asked.append(query)
        return pages[len(asked) - 1]

    monkeypatch.setattr(lists.kube, "get", get)
    version, found = await lists.kube.list_objects(names.RAY_SERVICE, "ns")
    assert (version, [obj.name for obj in found]) == (5, [KEY[2], "second"])
    limit = str(kube_module.PAGE)
    assert asked == [{"limit": limit}, {"limit": limit, "continue": "next"}]


async def test_types_that_are_installed_late_end_the_process_so_that_it_watches_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relist_module, "RETRY_SECONDS", 0.01)
    lists = Lists()
    del lists.kube.objects[CLUSTERS]
    await lists.relist.start()
    assert "ray.io/v1 has no rayclusters; install KubeRay's CRDs" in lists.relist.blind
    task = asyncio.create_task(lists.relist.run())
    lists.list(3)

    async def restarted() -> bool:
        return lists.restarts == 1

    await until_async("it asks for a restart", restarted)
    assert lists.relist.blind == ""
    task.cancel()


async def test_an_operator_that_can_list_nothing_any_more_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = Lists()
    await lists.relist.start()
    now = time.monotonic()
    monkeypatch.setattr(relist_module, "monotonic", lambda: now + 200)
    assert lists.relist.blind
