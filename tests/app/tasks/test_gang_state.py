"""What the reports of a release's gangs mean together."""

import pytest

from app.tasks.gang_state import is_complete
from testing.records import gang_state


@pytest.mark.parametrize(
    ("replicas", "phases", "complete"),
    [
        pytest.param(2, ["ready", "ready"], True, id="every gang has its ranks"),
        pytest.param(2, ["ready", "degraded"], False, id="one gang has fewer ranks than it wants"),
        pytest.param(2, ["ready", "starting"], False, id="one gang loads the model"),
        pytest.param(2, ["ready"], False, id="one gang does not report"),
        pytest.param(0, ["ready", "ready"], False, id="Serve has not started all that it wants"),
    ],
)
def test_a_release_takes_over_only_with_every_gang_at_its_size(
    replicas: int, phases: list[str], complete: bool
) -> None:
    gangs = [gang_state(f"gang-{number}", "here", phase=phase) for number, phase in enumerate(phases)]
    assert is_complete(gangs, replicas) is complete
