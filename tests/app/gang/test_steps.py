"""What the supervisor does next, for every situation of a gang."""

import pytest

from app.gang.steps import (
    LONGEST_BACKOFF_SECONDS,
    LOOK_SECONDS,
    Backoff,
    Compact,
    Form,
    Grow,
    Probe,
    Refuse,
    Rest,
    Shrink,
    Situation,
    Step,
    next_step,
    pause,
)


@pytest.mark.parametrize(
    ("situation", "step"),
    [
        pytest.param(Situation(target=4, ranks=0), Form(), id="a gang without ranks is formed"),
        pytest.param(Situation(4, 0, retry_in=3), Rest(), id="one that could not be formed is left alone for a while"),
        pytest.param(Situation(4, 0, busy=True), Form(), id="a broken gang is formed again, whoever holds it"),
        pytest.param(Situation(4, 2), Grow(2), id="missing ranks are added"),
        pytest.param(Situation(4, 2, busy=True), Grow(2), id="room for them is reserved while a task runs"),
        pytest.param(Situation(4, 2, retry_in=1), Probe(), id="a gang that waits for room is watched meanwhile"),
        pytest.param(Situation(4, 2, busy=True, retry_in=1), Rest(), id="or its task watches it"),
        pytest.param(Situation(2, 4), Shrink(), id="surplus ranks are given up"),
        pytest.param(Situation(2, 4, busy=True), Shrink(), id="at the end of the running task"),
        pytest.param(
            Situation(2, 4, refusal="memory"), Refuse("memory"), id="unless those that stay would not hold the model"
        ),
        pytest.param(
            Situation(2, 4, busy=True, refusal="memory"), Refuse("memory"), id="which is said while a task runs, too"
        ),
        pytest.param(Situation(2, 0, refusal="memory"), Form(), id="ranks that start again decide anew"),
        pytest.param(Situation(4, 4), Probe(), id="a complete idle gang is probed"),
        pytest.param(Situation(4, 4, busy=True), Rest(), id="a busy one is not"),
        pytest.param(Situation(4, 4, scattered=True), Compact(), id="an idle gang on too many nodes moves together"),
        pytest.param(Situation(4, 4, scattered=True, busy=True), Rest(), id="never under a task"),
        pytest.param(Situation(4, 4, scattered=True, retry_in=1), Probe(), id="and not right after a failure"),
    ],
)
def test_next_step(situation: Situation, step: Step) -> None:
    assert next_step(situation) == step


@pytest.mark.parametrize("retry_in", [0.0, 0.5, LOOK_SECONDS, 60.0])
def test_the_supervisor_always_pauses_and_never_misses_a_look(retry_in: float) -> None:
    assert 0 < pause(retry_in) <= LOOK_SECONDS


def test_pauses_double_up_to_a_minute_and_begin_again_after_a_success() -> None:
    now = 0.0
    backoff = Backoff(lambda: now)
    assert backoff.remaining() == 0
    found = []
    for _ in range(8):
        backoff.fail()
        found.append(backoff.remaining())
    assert found == [1, 2, 4, 8, 16, 32, 60, LONGEST_BACKOFF_SECONDS]
    now = 59.0
    assert backoff.remaining() == 1
    now = 61.0
    assert backoff.remaining() == 0, "it never becomes negative, which a loop would take for no wait at all"
    backoff.reset()
    backoff.fail()
    assert backoff.remaining() == 1
