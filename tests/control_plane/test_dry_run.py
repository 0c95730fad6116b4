"""What the chart renders and the samples hold, judged by the real API server and KubeRay's real types."""

import subprocess
from pathlib import Path

import pytest
import yaml

import tools
from testing.control_plane.api import Api, Json, Refused
from tests.charts.conftest import pods

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "wan22-rayservice"
FILES = sorted(CHART.glob("ci/*-values.yaml"))
CLAIMED = ("serviceAccountName", "runtimeClassName", "priorityClassName")
"""Parts of a pod that need objects which a trial does not make."""
SAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def dry_run(api: Api, namespace: str, text: str) -> list[Json]:
    """Apply every object of a text on trial, with strict field validation, and return the answers."""
    answers = []
    for body in filter(None, yaml.safe_load_all(text)):
        if body["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # The Prometheus operator's types are not on this control plane.
        query = {"fieldManager": "helm", "dryRun": "All", "fieldValidation": "Strict"}
        answers.append(api.request("PATCH", path(api, namespace, body), body, "apply-patch+yaml", **query))
    return answers


def path(api: Api, namespace: str, body: Json) -> str:
    """Return the API path of an object of any kind, as the API server itself tells it."""
    version = body["apiVersion"]
    group = f"/apis/{version}" if "/" in version else f"/api/{version}"
    (found,) = [
        one for one in api.request("GET", group)["resources"] if one["kind"] == body["kind"] and "/" not in one["name"]
    ]
    space = f"/namespaces/{namespace}" if found["namespaced"] else ""
    return f"{group}{space}/{found['name']}/{body['metadata']['name']}"


def rendered(file: Path, namespace: str) -> str:
    """Return what the chart makes of a values file."""
    words = ["template", "wan22", str(CHART), "--values", str(file), "--namespace", namespace]
    command = [str(tools.binary("helm")), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_rendered_objects_are_accepted(file: Path, api: Api, namespace: str) -> None:
    command = [
        str(tools.binary("helm")),
        "template",
        "wan22",
        str(CHART),
        "--values",
        str(file),
        "--namespace",
        namespace,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    answers = dry_run(api, namespace, done.stdout)
    assert {"StatefulSet", "RayService", "RayCluster"} & {answer["kind"] for answer in answers}


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_samples_are_accepted(file: Path, api: Api, namespace: str) -> None:
    assert dry_run(api, namespace, file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_pods_pass_pod_security_restricted(file: Path, api: Api, namespace: str) -> None:
    """Every pod is tried as a Pod of its own, since admission does not look into a RayCluster's templates."""
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    api.merge(f"/api/v1/namespaces/{namespace}", label)
    for name, spec in pods([one for one in yaml.safe_load_all(rendered(file, namespace)) if one]):
        said = refusal(api, namespace, spec)
        assert ("violates PodSecurity" in said) if "hostNetwork" in spec else said == "", name


def refusal(api: Api, namespace: str, spec: Json) -> str:
    """Return why a pod is refused, nothing if it is not."""
    spec = {key: value for key, value in spec.items() if key not in CLAIMED}
    volumes = spec.get("volumes", [])
    mounts = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])}
    # A StatefulSet makes its volumes.
    made = [{"name": name, "emptyDir": {}} for name in mounts - {volume["name"] for volume in volumes}]
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "trial"},
        "spec": spec | {"volumes": volumes + made},
    }
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    try:
        api.request("POST", f"/api/v1/namespaces/{namespace}/pods", body, **query)
    except Refused as refused:
        return refused.message
    return ""
