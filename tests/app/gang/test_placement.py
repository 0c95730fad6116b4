"""Reserved room is given back on every way out; Ray itself is in tests/service."""

import threading
from typing import Any, cast

import pytest

from app.gang import placement
from app.gang.placement import HeadSilentError, Slot
from testing.waiting import until_async


async def test_an_error_in_the_middle_releases_what_was_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Slot] = []
    released: list[Slot] = []

    async def reserve_on(_: dict[str, float], node_id: str | None, *__: float) -> Slot:
        if len(made) == 2:
            raise ConnectionError("the GCS does not answer")
        made.append(Slot(cast(Any, len(made)), node_id or "anywhere"))
        return made[-1]

    monkeypatch.setattr(placement, "_reserve_on", reserve_on)
    monkeypatch.setattr(placement, "release", released.extend)
    with pytest.raises(ConnectionError):
        await placement.reserve({"CPU": 1.0}, 4, ["home"])
    assert released == made
    assert len(made) == 2


async def test_what_a_silent_head_makes_after_nobody_waits_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    speaks = threading.Event()
    removed: list[str] = []

    def make(_: list[dict[str, float]], bundle_label_selector: object) -> str:
        speaks.wait(30)
        return "group"

    monkeypatch.setattr(placement, "_HEAD_SECONDS", 0.05)
    monkeypatch.setattr(placement, "placement_group", make)
    monkeypatch.setattr(placement, "remove_placement_group", removed.append)
    try:
        with pytest.raises(HeadSilentError, match=r"the head of the Ray cluster \(GCS\) did not answer within 0.05 s"):
            await placement.reserve({"CPU": 1.0}, 1, ["home"])
        assert removed == []
    finally:
        speaks.set()

    async def given_back() -> bool:
        return removed == ["group"]

    await until_async("the group is removed", given_back)
