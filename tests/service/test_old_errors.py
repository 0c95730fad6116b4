"""The eight errors that broke the system before this one, and what its own fixes got wrong.

Each test here fails if its error comes back. Those that need no running service stand beside what they test:
2 and 4 in tests/app/gang/test_rank.py and tests/app/model/test_pipeline.py, 5 and 8 in tests/serve_config, 7 there and
in the chart. Of 1, ruff refuses the import (banned-api in pyproject.toml).
"""

import re
from pathlib import Path

import pytest

import app
from testing.service import Service

FIVE = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}


@pytest.fixture
def gang_of_two(service: Service) -> Service:
    service.bring_up(workers=2)
    return service


def test_2_every_rank_has_all_five_variables_and_meets_at_rank_0s_address(gang_of_two: Service) -> None:
    (node,) = gang_of_two.gang()["nodes"]
    found = [rank["environment"] for rank in node["ranks"]]
    assert all(set(environment) == FIVE and all(environment.values()) for environment in found)
    assert [environment["RANK"] for environment in found] == ["0", "1"]
    assert {environment["WORLD_SIZE"] for environment in found} == {"2"}
    assert {environment["MASTER_ADDR"] for environment in found} == {node["ip"]}
    assert len({environment["MASTER_PORT"] for environment in found}) == 1
    assert found[0]["MASTER_ADDR"] not in ("localhost", "127.0.0.1", "")


def test_3_a_post_to_the_deployed_entrypoint_is_answered(gang_of_two: Service) -> None:
    reply = gang_of_two.http.post("/generate", json={"task_id": "test123"})
    assert reply.status_code == 202
    assert gang_of_two.wait_for_end("test123")["status"] == "succeeded"


def test_6_the_handle_is_called_by_its_method(gang_of_two: Service) -> None:
    from ray import serve

    handle = serve.get_deployment_handle("VideoGenerator", "wan22")
    reply = handle.generate_task.remote({"task_id": "nobody-submitted-this"}).result(timeout_s=30)
    assert reply == {"task_id": "nobody-submitted-this", "status": "unknown"}


def test_one_handle_call_reaches_every_rank(gang_of_two: Service) -> None:
    # In the old system it reached one replica of N, and the collective waited for the others for ever.
    gang_of_two.submit("all-ranks", num_inference_steps=3)
    task = gang_of_two.wait_for_end("all-ranks", 30)
    assert (task["status"], task["progress"]["step"]) == ("succeeded", 3)


def test_nobodys_address_is_a_default() -> None:
    for path in Path(app.__file__ or "").parent.rglob("*.py"):
        found = re.findall(r"\b(?:\d{1,3}\.){3}\d{1,3}\b", path.read_text())
        assert set(found) <= {"127.0.0.1"}, path
