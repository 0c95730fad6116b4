"""Which counts are wanted of an object."""

import json
from dataclasses import replace

import pytest
from wan22_operator import constants as names
from wan22_operator import desired
from wan22_operator.desired import Active, BadCountError, Counts
from wan22_operator.snapshots import Snapshot

from serve_config import ServeValues, render

CONFIG = render(ServeValues(total_workers=2, attention_heads=40))
OBJECT = Snapshot(names.RAY_SERVICE, "ns", "rs", managed=True, serve_config=CONFIG)


def with_annotations(**values: str) -> Snapshot:
    return replace(OBJECT, annotations={f"wan22.dev/{key.replace('_', '-')}": value for key, value in values.items()})


DECLARED = json.dumps({"totalWorkers": 4, "gangs": 3})
ADOPTED = json.dumps({"totalWorkers": 8, "gangs": 2})


@pytest.mark.parametrize(
    ("annotations", "counts"),
    [
        pytest.param({}, Counts(2, 1), id="what the spec holds"),
        pytest.param({"adopted": ADOPTED}, Counts(8, 2), id="what was first found beats the spec"),
        pytest.param({"adopted": ADOPTED, "declared": DECLARED}, Counts(4, 3), id="the chart beats what was found"),
        pytest.param({"declared": DECLARED, "total_workers": "16"}, Counts(16, 3), id="an annotation beats the chart"),
        pytest.param({"declared": DECLARED, "gangs": "1"}, Counts(4, 1), id="each count by itself"),
        pytest.param({"declared": "{broken"}, Counts(2, 1), id="an unreadable declaration counts as none"),
    ],
)
def test_wanted(annotations: dict[str, str], counts: Counts) -> None:
    assert desired.wanted(with_annotations(**annotations)) == counts


@pytest.mark.parametrize(
    "bad", ["0", "-1", "four", "2.5", "1e3", "", " 2", "2 ", "+2", "02", "٢", "81", "99999999999999999999", "3", "7"]
)
def test_a_bad_count_is_refused_with_what_is_allowed(bad: str) -> None:
    with pytest.raises(BadCountError, match=r"wan22\.dev/total-workers: .*1, 2, 4, 5, 8, 10, 16, 20, 40, 80"):
        desired.wanted(with_annotations(total_workers=bad))


@pytest.mark.parametrize("bad", ["0", "-1", "x", "1025"])
def test_bad_gangs_are_refused(bad: str) -> None:
    with pytest.raises(BadCountError, match=r"wan22\.dev/gangs: .* a whole number from 1 to 1024"):
        desired.wanted(with_annotations(gangs=bad))


def test_without_known_heads_any_count_up_to_the_most_is_allowed() -> None:
    unknown = replace(OBJECT, serve_config="", annotations={names.TOTAL_WORKERS: "7"})
    assert desired.wanted(unknown) == Counts(7, 1)
    with pytest.raises(BadCountError, match="1 to 80"):
        desired.wanted(replace(unknown, annotations={names.TOTAL_WORKERS: "81"}))


def test_the_models_path_tells_its_heads_where_nothing_else_does() -> None:
    hinted = replace(
        OBJECT, serve_config="", model_path="/models/Wan2.2-TI2V-5B", annotations={names.TOTAL_WORKERS: "5"}
    )
    with pytest.raises(BadCountError, match="24 attention heads"):
        desired.wanted(hinted)


def test_active_annotations_that_make_no_sense_count_as_absent() -> None:
    good = {"active_workers": "4", "active_gangs": "1", "active_pods": "4"}
    assert desired.active(with_annotations(**good)) == Active(Counts(4, 1), 4)
    for key in good:
        assert desired.active(with_annotations(**good | {key: "many"})) is None
