"""Settings: each mistake is named with its place, and nothing has somebody's address as its default."""

import pytest
from pydantic import ValidationError

from app.config import AppArgs, ConfigError, Environment, explain


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


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, None),
        ({"REDIS_URL": "redis://r:1/2"}, "redis://r:1/2"),
        ({"REDIS_HOST": "h"}, "redis://h:6379/0"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "6380", "REDIS_DATABASE": "3"}, "redis://h:6380/3"),
        ({"REDIS_HOST": "h", "REDIS_PASSWORD": "p@ss/word:1"}, "redis://:p%40ss%2Fword%3A1@h:6379/0"),
        ({"REDIS_HOST": "h", "REDIS_USERNAME": "a:b", "REDIS_PASSWORD": "c"}, "redis://a%3Ab:c@h:6379/0"),
        ({"REDIS_HOST": "h", "REDIS_TLS": "true"}, "rediss://h:6379/0"),
        (
            {"REDIS_HOST": "h", "REDIS_TLS": "true", "REDIS_CA_FILE": "/etc/ca/my ca.crt"},
            "rediss://h:6379/0?ssl_ca_certs=%2Fetc%2Fca%2Fmy+ca.crt",
        ),
        ({"REDIS_HOST": "fd00::1"}, "redis://[fd00::1]:6379/0"),
    ],
)
def test_the_variables_of_redis_make_one_url(variables: dict[str, str], url: str | None) -> None:
    assert Environment.read(variables).redis_address() == url


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"REDIS_URL": "redis://a", "REDIS_DATABASE": "1"}, "REDIS_DATABASE is set without REDIS_HOST"),
        ({"REDIS_TLS": "true"}, "REDIS_TLS is set without REDIS_HOST"),
        ({"REDIS_HOST": "h", "REDIS_CA_FILE": "/ca"}, "REDIS_CA_FILE is set without REDIS_TLS"),
        ({"REDIS_PREFIX": "my wan:"}, "REDIS_PREFIX"),
    ],
)
def test_a_variable_of_redis_without_effect_is_refused_by_name(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Environment.read(variables)
