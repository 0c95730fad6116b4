"""Deploying Serve on a standalone RayCluster, with stand-ins for the API server and the head."""

import json
from dataclasses import replace
from typing import Any

import pytest
from wan22_operator import constants as names
from wan22_operator.desired import Active, Counts
from wan22_operator.ray_head import RayHead
from wan22_operator.serve_deploy import _contains, deploy
from wan22_operator.snapshots import Snapshot, read

from serve_config import ServeValues, render
from tests.wan22_operator.fake_kube import FakeKube

CONFIG_MAP = "/api/v1/namespaces/ns/configmaps/config"
ACTIVE = Active(Counts(4, 1), 4)


class FakeHead(RayHead):
    """A head in memory: it keeps the configuration that it is sent, as Serve does, and adds a default to it."""

    def __init__(self) -> None:
        self.applications: dict[str, dict[str, Any]] = {}
        self.sent: list[Any] = []

    async def deployed(self, cluster: Snapshot) -> dict[str, Any]:
        return self.applications

    async def deploy(self, cluster: Snapshot, serve_config: Any) -> None:
        self.sent.append(serve_config)
        self.applications = {
            one["name"]: {**one, "external_scaler_enabled": False} for one in serve_config["applications"]
        }


def kube(text: str) -> FakeKube:
    return FakeKube({CONFIG_MAP: {"metadata": {"name": "config"}, "data": {names.SERVE_CONFIG_KEY: text}}})


CLUSTER = replace(
    read(
        names.RAY_CLUSTER,
        {"metadata": {"name": "c", "namespace": "ns"}, "spec": {"workerGroupSpecs": [{"groupName": "gpu-workers"}]}},
    ),
    annotations={names.SERVE_CONFIG: "config"},
)


async def test_the_configuration_is_deployed_once_with_the_active_counts() -> None:
    source, head = kube(render(ServeValues(total_workers=2, attention_heads=40))), FakeHead()
    assert await deploy(source, head, CLUSTER, ACTIVE)
    assert not await deploy(source, head, CLUSTER, ACTIVE)
    (config,) = head.sent
    assert '"total_workers": 4' in json.dumps(config)


async def test_other_counts_and_a_head_without_its_state_are_sent_the_configuration_again() -> None:
    source, head = kube(render(ServeValues(total_workers=2, attention_heads=40))), FakeHead()
    await deploy(source, head, CLUSTER, ACTIVE)
    assert await deploy(source, head, CLUSTER, Active(Counts(2, 1), 4))
    head.applications = {}
    assert await deploy(source, head, CLUSTER, Active(Counts(2, 1), 4))
    assert len(head.sent) == 3


@pytest.mark.parametrize("source", [FakeKube(), kube("")], ids=["no ConfigMap", "no text in it"])
async def test_a_configuration_that_is_missing_is_named(source: FakeKube) -> None:
    with pytest.raises(LookupError, match=r"wan22\.dev/serve-config: ConfigMap ns/config has no key serveConfigV2"):
        await deploy(source, FakeHead(), CLUSTER, ACTIVE)


async def test_without_the_annotation_the_defaults_are_deployed() -> None:
    head = FakeHead()
    assert await deploy(FakeKube(), head, replace(CLUSTER, annotations={}), ACTIVE)
    assert [application["name"] for application in head.sent[0]["applications"]] == ["wan22"]


WANTED = {"name": "wan22", "args": {"device": "cuda"}, "deployments": [{"name": "a", "num_replicas": 2}]}


@pytest.mark.parametrize(
    ("deployed", "same"),
    [
        pytest.param(WANTED, True, id="equal"),
        pytest.param(WANTED | {"route_prefix": "/"}, True, id="a default that Serve added"),
        pytest.param(WANTED | {"args": {"device": "cuda", "x": None}}, True, id="a default further down"),
        pytest.param(WANTED | {"deployments": [{"name": "a", "num_replicas": 2.0}]}, True, id="an equal number"),
        pytest.param(None, False, id="nothing"),
        pytest.param({}, False, id="an application without configuration"),
        pytest.param(WANTED | {"args": {}}, False, id="a key is missing"),
        pytest.param(WANTED | {"args": {"device": "cpu"}}, False, id="another value"),
        pytest.param(WANTED | {"deployments": []}, False, id="fewer deployments"),
        pytest.param(WANTED | {"deployments": [{"name": "a", "num_replicas": 2}, {"name": "b"}]}, False, id="one more"),
        pytest.param(WANTED | {"deployments": {"name": "a"}}, False, id="another type"),
    ],
)
def test_serve_has_a_configuration_if_it_reports_every_wanted_value(deployed: object, same: bool) -> None:
    assert _contains(deployed, WANTED) is same
