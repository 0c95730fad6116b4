"""The chart as Helm sees it: lint, generated files, wrong values, security, and what must never change a pod."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import tools
from tests.charts.conftest import CHART, CI, Template, pods


@pytest.mark.parametrize("file", CI, ids=lambda file: file.stem)
def test_lint_is_strict(file: Path, helm: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = helm("lint", "--strict", CHART, "--values", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_suites_of_helm_unittest_pass() -> None:
    command = [str(tools.binary("helm-unittest")), "--strict", "--color=false", str(CHART)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_schema_allows_nothing_that_values_do_not_name() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)

    def strict(part: dict[str, Any], values: dict[str, Any]) -> None:
        assert part["additionalProperties"] is False
        for key, value in values.items():
            if "properties" in part["properties"][key]:
                strict(part["properties"][key], value)

    strict(schema, yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"totalWorkers": 0}, ["/totalWorkers", "minimum"]),
        ({"totalWorkers": "four"}, ["/totalWorkers", "want integer"]),
        ({"totalWorkers": 2.5}, ["/totalWorkers"]),
        ({"totalWorkers": 7}, ["totalWorkers: 7 ranks", "24 attention heads", "use one of 1, 2, 3, 4, 6, 8"]),
        ({"totalWorkers": 3, "model.path": "x-A14B"}, ["totalWorkers: 3 ranks", "40 attention heads"]),
        ({"gpuPerWorker": 1}, ["gpuPerWorker"]),
        ({"gpuResource": "nvidia.com/gpu.shared"}, ["gpuResource", "nvidia.com/gpu.shared", "renameByDefault"]),
        ({"gpuResource": "nvidia.com/mig-1g.10gb.me"}, ["gpuResource", "nvidia.com/mig-1g.10gb.me"]),
        ({"image.tagg": "a"}, ["/image", "tagg"]),
        ({"kind": "RayJob"}, ["/kind", "RayService", "RayCluster"]),
        ({"redis.enabled": "false"}, ["redis.external.host: empty", "redis.enabled"]),
        ({"redis.external.host": "a"}, ["redis.external.host", "set redis.enabled to false"]),
        ({"storage.uri": "videos"}, ["/storage/uri"]),
        ({"storage.uri": "file:///elsewhere"}, ["storage.uri", "mounted: /videos"]),
        ({"storage.persistence.enabled": "false"}, ["storage.uri", "mounted: none"]),
        ({"nccl.hostNetwork": "true"}, ["networkPolicy.nodeCidrs: empty", "nccl.hostNetwork", "networkPolicy.enabled"]),
        ({"networkPolicy.nodeCidrs": "{here}"}, ["/networkPolicy/nodeCidrs/0"]),
        ({"worker.preStopSeconds": 5}, ["worker.preStopSeconds: 5", "set worker.drainSeconds", "--reset-then-reuse"]),
        ({"extraEnv[0].name": "REDIS_PASSWORD"}, ["extraEnv: KubeRay refuses REDIS_PASSWORD", "redis.existingSecret"]),
        ({"extraEnv[0].value": "a"}, ["/extraEnv/0", "name"]),
        ({"commonLabels.app\\.kubernetes\\.io/instance": "a"}, ["commonLabels: app.kubernetes.io/instance is set by"]),
        ({"model.existingClaim": "w"}, ["model.path: Wan-AI/", "claim w", "mounted at /models", "set model.path to"]),
        (
            {"model.existingClaim": "w", "model.path": "/modelsx/a"},
            ["model.path: /modelsx/a is no folder of the claim"],
        ),
        (
            {"storage.uri": "s3://b", "storage.persistence.existingClaim": "c"},
            [
                "storage.persistence.existingClaim: c",
                "storage.uri is s3://b",
                "remove storage.persistence.existingClaim",
            ],
        ),
        ({"fullnameOverride": "9a"}, ["fullnameOverride"]),
        ({"app.deploy": "false"}, ["app.deploy", "set kind to RayCluster"]),
        ({"worker.resources.limits.cpu": "7500m"}, ["/worker/resources/limits/cpu"]),
        ({"worker.drainSeconds": 90}, ["worker.terminationGracePeriodSeconds: 60", "worker.drainSeconds (90)"]),
        ({"head.drainSeconds": 30}, ["head.terminationGracePeriodSeconds: 30", "head.drainSeconds (30)"]),
        ({"gpusPerWorker": 8, "worker.resources.limits.cpu": 4}, ["worker.resources.limits.cpu", "needs 4.25"]),
    ],
)
def test_wrong_value_names_its_field(values: dict[str, Any], words: list[str], template: Template) -> None:
    refused = template(**values)
    assert refused.returncode != 0
    for word in words:
        assert word in refused.error


def test_a_cluster_without_kuberay_is_told(helm: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = helm("template", "wan22", CHART, "--api-versions", "apps/v1/Deployment")
    assert "install the KubeRay operator and its CRDs" in done.stderr
    known = helm("template", "wan22", CHART, "--api-versions", "apps/v1/Deployment,ray.io/v1/RayService")
    assert known.returncode == 0


@pytest.mark.parametrize("file", CI, ids=lambda file: file.stem)
def test_pods_are_restricted(file: Path, template: Template) -> None:
    """Pod Security "restricted"; only the RDMA scenario asks for more, and says so."""
    found = list(pods(template(file).objects))
    assert len(found) >= 4
    for name, spec in found:
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        rdma = file.stem.startswith("two-nodes") and name.endswith("gpu-workers")
        assert spec.get("hostNetwork", False) is rdma, name
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]} | ({"add": ["IPC_LOCK"]} if rdma else {}), name
            assert "resources" in container, name


KEYED = {
    "extraEnv": [
        {"name": "HF_HOME", "value": "/mine"},
        {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "3"},
        {"name": "TWICE", "value": "1"},
        {"name": "TWICE", "value": "2"},
    ],
    "extraVolumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "mine"}}],
    "extraVolumeMounts": [{"name": "cache", "mountPath": "/dev/shm/"}],
    "imagePullSecrets": [{"name": "pull"}, {"name": "pull"}],
    "operator": {"extraEnv": [{"name": "METRICS_PORT", "value": "1"}], "podLabels": {"helm.sh/chart": "mine"}},
    "commonLabels": {"app.kubernetes.io/version": "mine"},
    "podMonitor": {"enabled": True, "labels": {"app.kubernetes.io/managed-by": "mine"}},
}


@pytest.mark.parametrize("kind", [{}, {"kind": "RayCluster", "operator.enabled": "false"}])
def test_what_a_user_adds_takes_the_place_of_the_charts_own(
    kind: dict[str, Any], template: Template, tmp_path: Path
) -> None:
    """The API server refuses two entries of one key."""
    file = tmp_path / "keyed.yaml"
    file.write_text(yaml.safe_dump(KEYED), encoding="utf-8")
    rendered = template(file, **kind)
    assert rendered.error == ""
    found = dict(pods(rendered.objects))
    for name, spec in found.items():
        keyed = [(spec.get("volumes", []), "name"), (spec.get("imagePullSecrets", []), "name")]
        for container in spec["containers"]:
            keyed += [(container.get("env", []), "name"), (container.get("volumeMounts", []), "mountPath")]
        for entries, key in keyed:
            keys = [str(entry[key]).rstrip("/") for entry in entries]
            assert len(keys) == len(set(keys)), f"{name}: {keys}"
    for name in (one for one in found if one.startswith("Ray")):
        (container,) = found[name]["containers"]
        env = {one["name"]: one.get("value") for one in container["env"]}
        assert (env["HF_HOME"], env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"], env["TWICE"]) == ("/mine", "3", "2")
        assert {"name": "cache", "persistentVolumeClaim": {"claimName": "mine"}} in found[name]["volumes"]
        assert {"name": "cache", "mountPath": "/dev/shm/"} in container["volumeMounts"]
    for one in rendered.objects:
        assert one["metadata"]["labels"]["app.kubernetes.io/version"] == "mine", one["metadata"]["name"]


EVERY_POD = [{}, {"kind": "RayCluster", "operator.enabled": "false"}]


@pytest.mark.parametrize("kind", EVERY_POD)
def test_no_pod_keeps_an_id_that_is_set_to_null(kind: dict[str, Any], template: Template) -> None:
    """OpenShift gives each namespace its own ids, and refuses a pod that asks for others."""
    nulls = {f"podSecurityContext.{key}": "null" for key in ("runAsUser", "runAsGroup", "fsGroup")}
    for name, spec in pods(template(**kind, **nulls).objects):
        contexts = [spec["securityContext"], *(container["securityContext"] for container in spec["containers"])]
        for context in contexts:
            assert not {"runAsUser", "runAsGroup", "fsGroup"} & context.keys(), name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
    everything = {
        f"podSecurityContext.{key}": "null" for key in ("runAsNonRoot", "fsGroupChangePolicy", "seccompProfile")
    }
    for name, spec in pods(template(**kind, **nulls, **everything).objects):
        assert spec["securityContext"] == {}, name


@pytest.mark.parametrize("kind", EVERY_POD)
def test_every_container_takes_its_security_context_from_values(kind: dict[str, Any], template: Template) -> None:
    sets = {"podSecurityContext.supplementalGroups": "{5}", "containerSecurityContext.privileged": "false"}
    for name, spec in pods(template(**kind, **sets).objects):
        assert spec["securityContext"]["supplementalGroups"] == [5], name
        for container in spec["containers"]:
            assert container["securityContext"]["privileged"] is False, name


def test_root_reaches_ray_pods_and_no_other(template: Template) -> None:
    rendered = template(**{"podSecurityContext.runAsUser": 0, "nccl.ipcLock": "true"})
    found = dict(pods(rendered.objects))
    for name, spec in found.items():
        context = spec["securityContext"]
        root = name.startswith("RayService") or name.startswith("Pod")
        assert (context["runAsUser"] == 0, context["runAsNonRoot"]) == (root, not root), name
        for container in spec["containers"]:
            assert "runAsNonRoot" not in container["securityContext"], name
    (worker,) = found["RayService wan22-rayservice gpu-workers"]["containers"]
    assert worker["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}


def test_redis_and_the_operator_have_security_contexts_of_their_own(template: Template) -> None:
    rendered = template(
        **{
            "redis.podSecurityContext.runAsUser": 7,
            "redis.containerSecurityContext.readOnlyRootFilesystem": "false",
            "operator.podSecurityContext.fsGroup": 8,
            "operator.containerSecurityContext.privileged": "false",
        }
    )
    redis, operator = (rendered.one(kind)["spec"]["template"]["spec"] for kind in ("StatefulSet", "Deployment"))
    assert (redis["securityContext"]["runAsUser"], redis["securityContext"]["runAsGroup"]) == (7, 999)
    assert redis["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is False
    assert (operator["securityContext"]["runAsUser"], operator["securityContext"]["fsGroup"]) == (65532, 8)
    assert operator["containers"][0]["securityContext"]["privileged"] is False


def test_another_pod_is_another_job(template: Template) -> None:
    """The API server changes no Job, so that an upgrade would fail."""
    sets: dict[str, Any] = {"kind": "RayCluster", "operator.enabled": "false"}
    changes: tuple[dict[str, Any], ...]
    changes = ({}, {"jobs.podLabels.team": "video"}, {"podSecurityContext.runAsUser": 5}, {"app.apiCpus": 0.5})
    names = {
        one["metadata"]["name"]
        for change in changes
        for one in template(**sets, **change).objects
        if one["kind"] == "Job" and "-deploy-" in one["metadata"]["name"]
    }
    assert len(names) == len(changes)


@pytest.mark.parametrize("sets", [{"totalWorkers": 8}, {"gangs": 3}])
def test_a_count_changes_no_pod(sets: dict[str, Any], template: Template) -> None:
    """KubeRay would build a new cluster."""
    before, after = dict(pods(template().objects)), dict(pods(template(**sets).objects))
    assert before == after


def test_a_new_version_of_the_chart_changes_no_ray_pod(template: Template) -> None:
    cluster = template().one("RayService")["spec"]["rayClusterConfig"]
    text = json.dumps([cluster["headGroupSpec"], cluster["workerGroupSpecs"]])
    assert "helm.sh/chart" not in text
    assert "app.kubernetes.io/version" not in text


def test_names_follow_the_release(template: Template) -> None:
    for release, name in (
        ("wan22", "wan22-rayservice"),
        ("wan22-rayservice", "wan22-rayservice"),
        ("a", "a-rayservice"),
    ):
        assert template(release=release).one("RayService")["metadata"]["name"] == name
    assert template(kind="RayCluster").one("RayCluster")["metadata"]["name"] == "wan22-ray-cluster"
    long = template(release="r" * 53).one("RayService")["metadata"]["name"]
    assert len(long) <= 47


@pytest.mark.parametrize("file", CI, ids=lambda file: file.stem)
def test_rendered_objects_hold_nobodys_addresses_nor_passwords(file: Path, template: Template) -> None:
    rendered = template(file)
    text = yaml.safe_dump_all([one for one in rendered.objects if one["kind"] != "Secret"])
    # 192.0.2.0/24 is for documents; the scenario with the nodes' network needs some range.
    addresses = set(re.findall(r"\b(?:\d{1,3}\.){3}\d{1,3}\b", text)) - {"0.0.0.0", "192.0.2.0"}
    assert addresses == set()
    assert "password: " not in re.sub(r"key: password", "", text)


def test_managed_objects_declare_their_counts(template: Template) -> None:
    metadata = template(totalWorkers=4, gangs=3).one("RayService")["metadata"]
    assert metadata["labels"]["wan22.dev/managed"] == "true"
    assert json.loads(metadata["annotations"]["wan22.dev/declared"]) == {
        "attentionHeads": 24,
        "totalWorkers": 4,
        "gangs": 3,
    }


def test_raycluster_by_hand_is_nobodys(template: Template) -> None:
    rendered = template(kind="RayCluster", **{"app.deploy": "false", "operator.enabled": "false"})
    assert "wan22.dev/managed" not in rendered.one("RayCluster")["metadata"]["labels"]
    assert [one["kind"] for one in rendered.objects if "deploy" in one["metadata"]["name"]] == []


def _values(found: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of values.yaml with its default, groups included."""
    for key, value in found.items():
        yield above + key, value
        if isinstance(value, dict):
            yield from _values(value, f"{above}{key}.")


def _groups(part: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the keys that the schema gives children."""
    for key, found in part["properties"].items():
        if "properties" in found:
            yield above + key
            yield from _groups(found, f"{above}{key}.")


def test_a_group_that_is_missing_is_named(template: Template) -> None:
    """As `helm upgrade --reuse-values` leaves out what the chart before did not have."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    for group in _groups(schema):
        refused = template(**{group: "null"})
        assert f"{group}: null or missing" in refused.error
        assert "--reset-then-reuse-values" in refused.error


def test_a_list_or_a_map_can_be_null(template: Template) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    groups = set(_groups(schema))
    optional = [
        key
        for key, value in _values(values)
        if isinstance(value, dict | list) and key not in groups and key.rpartition(".")[0] in {"", *groups}
    ]
    assert len(optional) > 40
    rendered = template(**dict.fromkeys(optional, "null"), **{"podMonitor.enabled": "true", "ingress.enabled": "true"})
    assert rendered.error == ""


UMBRELLA = {
    "apiVersion": "v2",
    "name": "studio",
    "version": "1.0.0",
    "dependencies": [{"name": CHART.name, "version": ">=0.0.0", "alias": "video", "condition": "video.enabled"}],
}


def test_another_chart_can_depend_on_it(tmp_path: Path, template: Template) -> None:
    shutil.copytree(CHART, tmp_path / "charts" / CHART.name)
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(UMBRELLA), encoding="utf-8")
    sets = {"video.enabled": "true", "global.team": "video", "video.podSecurityContext.runAsUser": "null"}
    rendered = template(chart=tmp_path, **sets)
    assert rendered.error == ""
    assert rendered.one("RayService")["metadata"]["name"] == "wan22-rayservice"
    for name, spec in pods(rendered.objects):
        assert "runAsUser" not in spec["securityContext"], name
    assert template(chart=tmp_path, **{"video.enabled": "false"}).objects == []


def test_package_holds_the_template_as_a_file(
    tmp_path: Path, template: Template, helm: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = helm("package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tgz")
    packaged = template(chart=archive).one("RayService")["spec"]
    assert packaged["serveConfigV2"] == template().one("RayService")["spec"]["serveConfigV2"]
