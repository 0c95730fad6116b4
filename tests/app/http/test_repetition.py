"""Which name a submission can be found under again."""

import pytest

from app.http.repetition import KEY_SECONDS, RETRY_SECONDS, Repetition


def test_a_key_finds_for_a_day_whatever_the_body() -> None:
    repetition = Repetition(key="k", retries="0")
    alias = repetition.alias({"prompt": "a"})
    assert alias == repetition.alias({"prompt": "b"})
    assert alias is not None
    assert (alias.seconds, alias.finds) == (KEY_SECONDS, True)
    assert alias.name != "k", "Redis gets no text of a client as a key"


@pytest.mark.parametrize(("retries", "finds"), [("0", False), ("1", True), ("12", True)])
def test_only_a_retry_looks_for_its_body(retries: str, finds: bool) -> None:
    alias = Repetition(retries=retries).alias({"prompt": "a"})
    assert alias is not None
    assert (alias.seconds, alias.finds) == (RETRY_SECONDS, finds)
    other = Repetition(retries=retries).alias({"prompt": "b"})
    assert other is not None
    assert other.name != alias.name


@pytest.mark.parametrize("retries", [None, "", "-1", "one", "1.5", "²"])
def test_without_a_count_of_retries_a_submission_has_no_other_name(retries: str | None) -> None:
    assert Repetition(retries=retries).alias({}) is None
