"""The webhooks' certificate and caBundle, with a stand-in for the API server; nothing listens here."""

import base64
import json
import threading
import time
from typing import Any, cast

import pytest
from aiohttp import web
from wan22_operator import admission, off_loop
from wan22_operator import constants as names
from wan22_operator.certificates import Certificates
from wan22_operator.kube import ConflictError
from wan22_operator.settings import Settings
from wan22_operator.webhook import WebhookServer

from testing.control_plane.manifests import ray_service
from tests.wan22_operator.fake_kube import FakeKube

SECRET = "/api/v1/namespaces/default/secrets/wan22-operator-webhook"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
MUTATING = f"{ADMISSION}/mutatingwebhookconfigurations/wan22-operator"
VALIDATING = f"{ADMISSION}/validatingwebhookconfigurations/wan22-operator"


def chart(*configurations: str) -> FakeKube:
    """Return what the chart creates: an empty Secret, and configurations of two webhooks without caBundle."""
    kube = FakeKube({SECRET: {"metadata": {"name": "wan22-operator-webhook"}}})
    for path in configurations or (MUTATING, VALIDATING):
        kube.store(path, {"webhooks": [{"name": "a", "clientConfig": {}}, {"name": "b", "clientConfig": {}}]})
    return kube


def bundles(kube: FakeKube, path: str) -> list[str | None]:
    return [hook["clientConfig"].get("caBundle") for hook in kube.objects[path]["webhooks"]]


def authority(kube: FakeKube) -> str:
    """Return the CA in the Secret, as a caBundle holds it."""
    certificates = Certificates.from_secret(kube.objects[SECRET].get("data"))
    assert certificates is not None
    return base64.b64encode(certificates.ca.encode()).decode()


async def prepare(kube: FakeKube) -> WebhookServer:
    server = WebhookServer(kube, Settings())
    await server._renew_certificate()
    return server


async def test_every_webhook_of_both_configurations_gets_the_ca() -> None:
    kube = chart()
    await (await prepare(kube))._fill_ca_bundle()
    assert bundles(kube, MUTATING) == bundles(kube, VALIDATING) == [authority(kube)] * 2


async def test_what_is_right_is_not_written_again() -> None:
    kube = chart()
    server = await prepare(kube)
    await server._fill_ca_bundle()
    kube.writes.clear()
    await server._renew_certificate()
    await server._fill_ca_bundle()
    assert kube.writes == []


async def test_only_a_webhook_with_another_bundle_is_written() -> None:
    kube = chart()
    server = await prepare(kube)
    await server._fill_ca_bundle()
    kube.objects[MUTATING]["webhooks"][1]["clientConfig"]["caBundle"] = "b3RoZXI="
    kube.writes.clear()
    await server._fill_ca_bundle()
    ((_, path, patch),) = kube.writes
    assert path == MUTATING
    assert [operation["path"] for operation in patch] == [
        "/metadata/resourceVersion",
        "/webhooks/1/clientConfig/caBundle",
    ]


async def test_a_missing_configuration_is_named_and_the_other_is_filled(caplog: pytest.LogCaptureFixture) -> None:
    kube = chart(VALIDATING)
    await (await prepare(kube))._fill_ca_bundle()
    assert "mutatingwebhookconfigurations wan22-operator is missing; run helm upgrade" in caplog.text
    assert bundles(kube, VALIDATING) == [authority(kube)] * 2


async def test_a_configuration_that_changes_meanwhile_is_not_overwritten() -> None:
    kube = chart()
    server = await prepare(kube)
    kube.before_write = lambda: kube.store(MUTATING, {"webhooks": []})
    with pytest.raises(ConflictError):
        await server._fill_ca_bundle()
    assert kube.objects[MUTATING]["webhooks"] == []


async def test_replicas_share_the_certificate_of_the_fastest() -> None:
    kube = chart()
    first = await prepare(kube)
    second = await prepare(kube)
    assert first._loaded == second._loaded


async def test_a_replica_that_loses_the_race_takes_the_winners_certificate() -> None:
    kube, winner = chart(), chart()
    await prepare(winner)

    def other_replica_writes() -> None:
        kube.before_write = lambda: None
        kube.store(SECRET, winner.objects[SECRET])

    kube.before_write = other_replica_writes
    server = await prepare(kube)
    assert server._loaded == Certificates.from_secret(winner.objects[SECRET]["data"])


async def test_a_missing_secret_is_named() -> None:
    with pytest.raises(LookupError, match="Secret default/wan22-operator-webhook is missing; run helm upgrade"):
        await prepare(FakeKube())


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)
)


class Request:
    """An admission request for a new RayService with this serveConfigV2."""

    def __init__(self, text: str, **labels: str) -> None:
        body = ray_service("ns")
        body["metadata"]["labels"] |= labels
        body["spec"]["serveConfigV2"] = text
        self._review = {"apiVersion": "v1", "request": {"uid": "u", "kind": {"kind": "RayService"}, "object": body}}

    async def json(self) -> object:
        return self._review


async def answers(text: str, **labels: str) -> list[dict[str, Any]]:
    server = WebhookServer(FakeKube(), Settings())
    found = [await ask(cast(web.Request, Request(text, **labels))) for ask in (server._mutate, server._validate)]
    return [json.loads(str(one.text))["response"] for one in found]


@pytest.mark.parametrize("text", [BOMB + "applications: *a19\n", "applications: &a [*a]\n"])
async def test_a_text_of_aliases_is_refused_at_once_by_the_aliass_name(text: str) -> None:
    began = time.process_time()
    mutated, validated = await answers(text)
    assert time.process_time() - began < 0.9
    assert mutated == {"uid": "u", "allowed": True}
    assert not validated["allowed"]
    assert "found the alias *a" in validated["status"]["message"]


async def test_a_text_that_takes_too_long_is_refused_and_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = threading.Event()
    monkeypatch.setattr(off_loop, "SECONDS", 0.1)
    for function in ("mutate", "validate"):
        monkeypatch.setattr(admission, function, lambda *_: ends.wait(20))
    try:
        _, validated = await answers("applications: []")
    finally:
        ends.set()
    assert "took longer than 0.1 s" in validated["status"]["message"]


async def test_an_object_that_names_another_operator_is_judged_by_that_one_alone() -> None:
    assert not (await answers("applications: 1"))[1]["allowed"]
    other = {names.OPERATED_BY: "another-operator"}
    assert await answers("applications: 1", **other) == [{"uid": "u", "allowed": True}] * 2
