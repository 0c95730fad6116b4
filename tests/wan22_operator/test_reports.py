"""The status annotation and Events, with a stand-in for the API server."""

import datetime
import json
import time
from dataclasses import replace

import pytest
from wan22_operator import constants as names
from wan22_operator import reports
from wan22_operator.desired import Counts
from wan22_operator.reports import Recorder, Status
from wan22_operator.snapshots import Snapshot

from tests.wan22_operator.fake_kube import FakeKube

OBJECT = Snapshot(names.RAY_SERVICE, "ns", "rs", uid="u1")


def messages(kube: FakeKube) -> list[str]:
    return [body["message"] for _, _, body in kube.writes]


async def test_a_message_is_written_once_until_another_of_its_reason_came() -> None:
    kube = FakeKube()
    recorder = Recorder(kube, "wan22-operator")
    for message in ("four", "four", "five", "four"):
        await recorder.record(OBJECT, "Warning", "BadCount", message)
    assert messages(kube) == ["four", "five", "four"]


async def test_an_event_that_was_refused_is_written_later() -> None:
    kube = FakeKube()
    recorder = Recorder(kube, "wan22-operator")
    kube.refuse = 403
    await recorder.record(OBJECT, "Warning", "BadCount", "four")
    kube.refuse = 0
    for _ in range(2):
        await recorder.record(OBJECT, "Warning", "BadCount", "four")
    assert messages(kube) == ["four"]


async def test_a_warning_whose_cause_lasts_is_written_again_before_its_event_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kube = FakeKube()
    recorder = Recorder(kube, "wan22-operator")
    now = time.monotonic()
    for minutes in (0, 29, 31):
        monkeypatch.setattr(reports, "monotonic", lambda: now + 60 * minutes)  # noqa: B023
        await recorder.record(OBJECT, "Warning", "BadCount", "four")
    assert messages(kube) == ["four"] * 2


async def test_reasons_and_objects_have_messages_of_their_own() -> None:
    kube = FakeKube()
    recorder = Recorder(kube, "wan22-operator")
    await recorder.record(OBJECT, "Warning", "BadCount", "four")
    await recorder.record(OBJECT, "Warning", "NotUsable", "four")
    await recorder.record(replace(OBJECT, uid="u2"), "Warning", "BadCount", "four")
    assert messages(kube) == ["four"] * 3


async def test_after_an_object_is_deleted_its_messages_are_forgotten() -> None:
    kube = FakeKube()
    recorder = Recorder(kube, "wan22-operator")
    other = replace(OBJECT, uid="u2")
    for obj in (OBJECT, other):
        await recorder.record(obj, "Normal", "Resized", "ready")
    recorder.forget(OBJECT)
    for obj in (OBJECT, other):
        await recorder.record(obj, "Normal", "Resized", "ready")
    assert [body["involvedObject"]["uid"] for _, _, body in kube.writes] == ["u1", "u2", "u1"]


async def test_an_event_fits_into_what_kubernetes_accepts() -> None:
    kube = FakeKube()
    await Recorder(kube, "wan22-operator").record(replace(OBJECT, name="r" * 253), "Normal", "Resized", "x" * 5000)
    ((_, path, body),) = kube.writes
    assert path == "/api/v1/namespaces/ns/events"
    assert len(body["metadata"]["name"]) <= 253
    assert len(body["message"]) <= 1024
    assert body["involvedObject"]["kind"] == names.RAY_SERVICE


async def test_an_event_that_is_refused_is_logged_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    kube = FakeKube()
    kube.refuse = 403
    await Recorder(kube, "wan22-operator").record(OBJECT, "Normal", "Resized", "ready")
    assert "event Resized on ns/rs: refused" in caplog.text


NOON = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)
LATER = "2030-01-01T13:00:00Z"


@pytest.mark.parametrize(("have", "expected"), [(None, None), (Counts(2, 1), {"totalWorkers": 2, "gangs": 1})])
def test_the_status_is_json(have: Counts | None, expected: object) -> None:
    value = json.loads(Status("resizing", Counts(4, 1), have, "a gang has 2 of 4 ranks").text(None, NOON))
    assert value == {
        "phase": "resizing",
        "wanted": {"totalWorkers": 4, "gangs": 1},
        "have": expected,
        "message": "a gang has 2 of 4 ranks",
        "since": "2030-01-01T12:00:00Z",
    }


@pytest.mark.parametrize(
    ("phase", "workers", "since"),
    [("resizing", 4, "2030-01-01T12:00:00Z"), ("ready", 4, LATER), ("resizing", 8, LATER)],
)
def test_the_status_tells_since_when_its_phase_lasts(phase: str, workers: int, since: str) -> None:
    before = Status("resizing", Counts(4, 1), None, "3 of 4 worker pods have joined Ray").text(None, NOON)
    after = Status(phase, Counts(workers, 1), None, "another message").text(before, NOON + datetime.timedelta(hours=1))
    assert json.loads(after)["since"] == since


def test_the_status_of_an_earlier_release_gets_its_time() -> None:
    before = '{"phase": "resizing", "wanted": {"totalWorkers": 4, "gangs": 1}}'
    assert json.loads(Status("resizing", Counts(4, 1), None).text(before, NOON))["since"] == "2030-01-01T12:00:00Z"
