"""Mistakes that only a deployment shows: each fails within a bounded time, with one readable reason."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from testing.service import Service
from testing.waiting import until


def failure(service: Service) -> str:
    """Wait for the application to fail; return what ``serve status`` says of it."""

    def failed() -> dict[str, Any] | None:
        status = service.status()
        return status if status.get("status") == "DEPLOY_FAILED" else None

    status = until("the deployment fails", failed, 150, every=0.5)
    messages = [status["message"], *(one["message"] for one in status["deployments"].values())]
    return "\n".join(messages)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"MODEL_PATH": "/no/such/model"}, "MODEL_PATH: folder '/no/such/model' does not exist in this container"),
        ({"STORAGE_URI": "gopher://x"}, "STORAGE_URI: 'gopher://x' cannot be used"),
        # Gloo looks for this network interface and finds none, so no rendezvous can form.
        ({"GLOO_SOCKET_IFNAME": "nowhere0"}, "the gang could not be formed: rank"),
    ],
)
def test_a_broken_setting_fails_the_deployment_with_its_reason(
    environment: dict[str, str], reason: str, service: Service
) -> None:
    service.deploy(workers=1, env=environment)
    assert reason in failure(service)


def test_a_count_without_a_plan_fails_a_new_deployment_with_the_allowed_counts(service: Service) -> None:
    service.deploy(workers=3, lease_seconds=4.5)
    assert "total_workers: 3 ranks have no parallel plan" in failure(service)


def test_heads_that_are_not_the_models_fail_the_deployment(service: Service) -> None:
    service.deploy(workers=2, attention_heads=40)
    assert "attention_heads: 40 was given, but the model in" in failure(service)


def test_a_wrong_argument_fails_the_deployment_by_name(service: Service) -> None:
    service.deploy(workers=2, totalWorkers=2)
    assert "totalWorkers" in failure(service)


def test_a_gang_with_compiled_blocks_is_ready_when_they_are_compiled(service: Service, tmp_path: Path) -> None:
    env = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    service.bring_up(workers=1, compile_blocks="always", env=env)
    compiled = set(tmp_path.rglob("*.so"))
    assert compiled
    service.submit("first")
    assert service.wait_for_end("first")["status"] == "succeeded"
    assert set(tmp_path.rglob("*.so")) == compiled
    os.kill(service.rank_pids()[0], signal.SIGKILL)
    service.submit("after-a-restart")
    assert service.wait_for_end("after-a-restart")["status"] == "succeeded"
    assert set(tmp_path.rglob("*.so")) == compiled, "ranks that start again find what was compiled"
