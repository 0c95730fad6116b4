"""What the operator takes from a head's answers; what cannot be understood counts as no answer."""

from types import SimpleNamespace
from typing import Any

import pytest
from wan22_operator import constants as names
from wan22_operator.observed import Leader
from wan22_operator.ray_head import RayHead
from wan22_operator.snapshots import Snapshot

from tests.wan22_operator.fake_kube import FakeKube


def serve(*replicas: Any) -> Any:
    generator = {"name": "VideoGenerator", "replicas": list(replicas)}
    return {"applications": {"mine": {"deployments": {"APIEntrypoint": {}, "VideoGenerator": generator}}}}


TWO = serve({"state": "RUNNING", "node_ip": "10.0.0.1"}, {"state": "STOPPING", "node_ip": None})


@pytest.mark.parametrize(
    ("status", "answer", "leaders"),
    [
        (200, TWO, (Leader("10.0.0.1", True), Leader("", False))),
        (200, serve(), ()),
        (200, {"applications": {}}, None),
        (200, {}, None),
        (200, "a proxy's page", None),
        (200, serve("x"), None),
        (500, TWO, None),
    ],
)
async def test_leaders_as_serve_lists_them(
    monkeypatch: pytest.MonkeyPatch, status: int, answer: Any, leaders: tuple[Leader, ...] | None
) -> None:
    head = RayHead(FakeKube())

    async def ask(*_: Any) -> tuple[int, Any]:
        return status, answer

    monkeypatch.setattr(head, "_ask", ask)
    assert await head.leaders(Snapshot(names.RAY_CLUSTER, "ns", "c")) == leaders


async def test_names_have_no_domain_since_clusters_have_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def request(_: str, url: str, **__: Any) -> Any:
        asked.append(url)
        raise TimeoutError

    head = RayHead(FakeKube())
    monkeypatch.setattr(head, "_session", SimpleNamespace(request=request))
    assert await head.gangs(Snapshot(names.RAY_CLUSTER, "ns", "c", head_service="c-head-svc")) is None
    assert asked == ["http://c-head-svc.ns.svc:8000/readyz"]
