"""The demo refuses a count of ranks before it starts anything; `make readme` runs the demo itself."""

import pytest

from app import demo
from app.config import Environment


@pytest.mark.parametrize(
    ("count", "message"),
    [
        ("two", "TOTAL_WORKERS: Input should be a valid integer, unable to parse string as an integer (found 'two')"),
        ("0", "TOTAL_WORKERS: Input should be greater than or equal to 1 (found '0')"),
        ("3", "TOTAL_WORKERS: 3 ranks have no parallel plan for a model with 4 attention heads; use one of 1, 2, 4, 8"),
    ],
)
def test_a_count_that_cannot_be_is_refused_by_its_variable(
    count: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in Environment.names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOTAL_WORKERS", count)
    monkeypatch.setattr("sys.argv", ["make demo"])
    assert demo.main() == 2
    assert message in capsys.readouterr().err
