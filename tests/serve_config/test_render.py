"""The rendered text: what it says, and that every parser reads the same."""

import json
import math

import pytest
import yaml
from pydantic import ValidationError
from ruamel.yaml import YAML

from app.config import APPLICATION, IMPORT_PATH, AppArgs
from app.plan import worker_pods
from serve_config import ServeValues, check_serve_config, read_counts, render
from serve_config.resources import Pods

VALUES = [
    ServeValues(),
    ServeValues(total_workers=16, gangs=3, gpus_per_worker=8, worker_cpus=96, attention_heads=40),
    ServeValues(total_workers=4, gpus_per_worker=0, worker_cpus=2, attention_heads=4, lease_seconds=5.5),
    ServeValues(device="cpu", gpus_per_worker=2, worker_cpus=8),
    ServeValues(rank_cpus=1.5, api_cpus=0.001, max_task_seconds=1e6),
]


@pytest.mark.parametrize("values", VALUES)
def test_json_yaml_1_1_and_yaml_1_2_read_the_same(values: ServeValues) -> None:
    text = render(values)
    read = json.loads(text)
    assert yaml.safe_load(text) == read
    assert YAML(typ="safe", pure=True).load(text) == read


@pytest.mark.parametrize("values", VALUES)
def test_rendered_text_has_no_problem(values: ServeValues) -> None:
    pods = Pods(values.worker_cpus, values.gpus_per_worker, values.pods)
    assert check_serve_config(render(values), pods, with_ray=True) == []


def test_keys_are_sorted_and_the_layout_is_json_of_two_spaces() -> None:
    text = render(VALUES[0])
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_application_is_named_by_an_import_path_and_holds_no_python() -> None:
    (application,) = json.loads(render(ServeValues()))["applications"]
    assert (application["name"], application["import_path"], application["route_prefix"]) == (
        APPLICATION,
        IMPORT_PATH,
        "/",
    )


def test_every_argument_of_the_app_is_rendered_except_the_counts() -> None:
    assert json.loads(render(ServeValues()))["applications"][0]["args"].keys() == AppArgs.model_fields.keys() - {
        "total_workers",
        "gangs",
    }


def test_a_changed_count_changes_no_args() -> None:
    few, many = (json.loads(render(ServeValues(total_workers=count))) for count in (2, 4))
    assert few["applications"][0]["args"] == many["applications"][0]["args"]


def test_every_worker_pod_gets_one_api_entrypoint() -> None:
    values = ServeValues(total_workers=16, gangs=3, gpus_per_worker=8)
    found = read_counts(render(values))
    assert (found.total_workers, found.gangs, found.pods) == (16, 3, worker_pods(16, 3, 8))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"total_workers": 7, "attention_heads": 40}, ["totalWorkers", "7 ranks", "1, 2, 4, 5, 8, 10, 16, 20, 40, 80"]),
        ({"total_workers": 0}, ["total_workers", "greater than or equal to 1"]),
        ({"total_workers": 81}, ["total_workers", "less than or equal to 80"]),
        (
            {"gpus_per_worker": 8, "worker_cpus": 4},
            ["worker.resources.limits.cpu", "has 4", "needs 4.25", "set it to 5"],
        ),
        ({"gpus_per_worker": 1, "worker_cpus": 1, "api_cpus": 0.75}, ["needs 1.25", "app.apiCpus"]),
        ({"gpus_per_worker": 0, "worker_cpus": 1}, ["CPU worker pod", "set it to 2"]),
        ({"gpus_per_worker": 0, "rank_cpus": 0.25}, ["app.rankCpus", "leave it out"]),
        ({"gpus_per_worker": 0, "device": "cuda"}, ["device", "gpusPerWorker"]),
        ({"workers": 2}, ["workers", "Extra inputs"]),
    ],
)
def test_values_that_cannot_work_name_their_fields(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValidationError) as error:
        ServeValues.model_validate(values)
    for word in words:
        assert word in str(error.value)


def least_cpus(device: str, ranks: int) -> int:
    """The smallest pod, in whole CPUs, for the defaults: APIEntrypoint, leaders and ranks of 0.25 CPUs each.

    On a GPU everything has to fit. On CPU the ranks share what is left, and one rank more must not fit.
    """
    if device == "cuda":
        return math.ceil(0.25 + ranks * 0.5)
    return math.floor((ranks + 1) * (0.25 + ranks * 0.25)) + 1


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("cpus", range(1, 24))
def test_api_entrypoint_always_finds_a_cpu(device: str, ranks: int, cpus: int) -> None:
    """A pod that is too small is refused by the field to change; in any other, ranks leave APIEntrypoint its share."""
    given = {"device": device, "gpus_per_worker": ranks, "worker_cpus": cpus}
    if cpus < least_cpus(device, ranks):
        with pytest.raises(
            ValidationError, match=rf"worker\.resources\.limits\.cpu .* set it to {least_cpus(device, ranks)} "
        ):
            ServeValues.model_validate(given)
        return
    values = ServeValues.model_validate(given)
    most = ranks if device == "cuda" else int(cpus / values.computed_rank_cpus)
    used = most * (values.leader_cpus + values.computed_rank_cpus)
    assert most == ranks
    assert used + values.api_cpus <= cpus
