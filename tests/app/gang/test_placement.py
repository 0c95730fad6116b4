"""Reserved room is given back on every way out; Ray itself is in tests/service."""

from typing import Any, cast

import pytest

from app.gang import placement
from app.gang.placement import Slot


async def test_an_error_in_the_middle_releases_what_was_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Slot] = []
    released: list[Slot] = []

    async def reserve_on(_: dict[str, float], node_id: str | None) -> Slot:
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
