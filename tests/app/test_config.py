"""Settings: each mistake is named with its place, and nothing has somebody's address as its default."""

import pytest
from pydantic import ValidationError

from app.config import AppArgs, ConfigError, Environment, explain
from app.runtime import make_url


def test_values_of_serve_run_are_strings_and_understood() -> None:
    args = AppArgs.model_validate({"total_workers": "4", "lease_seconds": "7.5"})
    assert (args.total_workers, args.lease_seconds) == (4, 7.5)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"total_workers": "four"}, "total_workers: Input should be a valid integer"),
        ({"total_workers": 0}, "total_workers: Input should be greater than or equal to 1 (found 0)"),
        ({"totalWorkers": 4}, "totalWorkers: Extra inputs are not permitted"),
        ({"device": "tpu"}, "device: Input should be 'cuda' or 'cpu' (found 'tpu')"),
        ({"rank_cpus": -1}, "rank_cpus"),
    ],
)
def test_a_wrong_argument_is_named(given: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AppArgs.model_validate(given)
    assert named in explain(caught.value)


def test_every_wrong_variable_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"REDIS_PORT.*TOTAL_WORKERS"):
        Environment.read({"REDIS_PORT": "six", "TOTAL_WORKERS": "0"})


def test_an_empty_variable_counts_as_unset() -> None:
    assert Environment.read({"REDIS_HOST": "", "MODEL_PATH": ""}) == Environment.read({})


def test_two_ways_to_redis_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="REDIS_URL and REDIS_HOST are both set"):
        Environment.read({"REDIS_URL": "redis://a", "REDIS_HOST": "b"})


def test_nothing_has_an_address_by_default() -> None:
    environment = Environment.read({})
    assert (environment.redis_url, environment.redis_host, environment.model_path) == (None, None, None)


def test_secrets_are_not_shown() -> None:
    shown = repr(Environment.read({"REDIS_HOST": "h", "REDIS_PASSWORD": "geheim"}))
    assert "geheim" not in shown


def test_a_password_is_quoted_in_the_url() -> None:
    assert make_url("h", 6379, "p@ss/word") == "redis://:p%40ss%2Fword@h:6379/0"
    assert make_url("h", 6380, None) == "redis://h:6380/0"
