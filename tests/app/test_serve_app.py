"""How the application is put together: which count wins, and what each replica reserves."""

from typing import Any

import pytest

from app.config import AppArgs, ConfigError, Environment
from app.serve_app import app


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Environment.names():
        monkeypatch.delenv(name, raising=False)


def generator(**args: Any) -> Any:
    entrypoint = app(AppArgs(**{"device": "cpu"} | args))
    # Serve has no public way to look into an application that is not deployed.
    return entrypoint._bound_deployment.init_args[0]._bound_deployment


@pytest.mark.parametrize(
    ("argument", "variable", "count"), [(4, "8", 4), (None, "8", 8), (None, None, 2), (None, "", 2)]
)
def test_an_argument_beats_the_variable_and_two_is_the_default(
    argument: int | None, variable: str | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("TOTAL_WORKERS", variable)
    assert generator(total_workers=argument).user_config == {"total_workers": count}


def test_a_leader_shares_its_bundle_with_rank_0() -> None:
    deployment = generator(device="cuda", leader_cpus=0.5, rank_cpus=1.5)
    assert deployment._replica_config.placement_group_bundles == [{"CPU": 2.0, "GPU": 1.0}]
    assert deployment.ray_actor_options["num_cpus"] == 0.5
    assert deployment.ray_actor_options.get("num_gpus", 0) == 0


def test_a_stopping_leader_has_time_for_the_longest_task() -> None:
    assert generator(max_task_seconds=7200)._deployment_config.graceful_shutdown_timeout_s > 7200


def test_one_task_at_a_time() -> None:
    assert generator().max_ongoing_requests == 1


def test_a_wrong_variable_is_named_before_anything_is_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOTAL_WORKERS", "many")
    with pytest.raises(ConfigError, match="environment: TOTAL_WORKERS"):
        generator()


def test_no_secret_is_among_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_HOST", "redis")
    monkeypatch.setenv("REDIS_PASSWORD", "geheim")
    assert generator().init_args == (AppArgs(device="cpu", total_workers=2),)
