"""How admission changes or refuses an object, without a server."""

import json
from typing import Any

import pytest
from wan22_operator import admission
from wan22_operator import constants as names
from wan22_operator.admission import (
    Adopted,
    Case,
    Created,
    Kept,
    MadeByKubeRay,
    NotYetSized,
    RefusedError,
    Replaced,
    Resized,
    case_of,
    operator_annotations,
)
from wan22_operator.desired import Active, Counts
from wan22_operator.snapshots import Snapshot, read

from serve_config import ServeValues, read_counts, render

Json = dict[str, Any]


def ray_service(workers: int = 2, gpus: int = 1, annotations: dict[str, str] | None = None) -> Json:
    values = ServeValues(total_workers=workers, gpus_per_worker=gpus, attention_heads=40, worker_cpus=64)
    pods = values.pods
    given = {f"wan22.dev/{key.replace('_', '-')}": value for key, value in (annotations or {}).items()}
    limits = {"nvidia.com/gpu": str(gpus)}
    return {
        "metadata": {"name": "rs", "labels": {names.MANAGED: "true"}, "annotations": given},
        "spec": {
            "serveConfigV2": render(values),
            "rayClusterConfig": {
                "workerGroupSpecs": [
                    {"groupName": "other", "replicas": 7},
                    {
                        "groupName": "gpu-workers",
                        "replicas": pods,
                        "minReplicas": pods,
                        "maxReplicas": pods,
                        "template": {"spec": {"containers": [{"resources": {"limits": limits}}]}},
                    },
                ]
            },
        },
    }


ACTIVE = {"active_workers": "4", "active_gangs": "1", "active_pods": "4", "declared": '{"totalWorkers": 2}'}


def patched(body: Json, old: Json | None = None) -> Json:
    """Return the object with the webhook's patch applied."""
    body = json.loads(json.dumps(body))
    snapshot = read(names.RAY_SERVICE, old) if old else None
    for operation in admission.mutate(read(names.RAY_SERVICE, body), snapshot):
        assert operation["op"] == "add"
        *parents, last = [part.replace("~1", "/") for part in operation["path"].split("/")[1:]]
        target: Any = body
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target[part]
        target[last] = operation["value"]
    return body


def seen(body: Json) -> tuple[int | None, int | None, int | None, int]:
    found = read_counts(body["spec"]["serveConfigV2"])
    group = body["spec"]["rayClusterConfig"]["workerGroupSpecs"][1]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    return found.total_workers, found.gangs, found.pods, group["replicas"]


def service(**values: Any) -> Snapshot:
    return read(names.RAY_SERVICE, ray_service(**values))


def unmanaged(**values: Any) -> Snapshot:
    body = ray_service(**values)
    body["metadata"]["labels"] = {}
    return read(names.RAY_SERVICE, body)


def ray_cluster(annotations: dict[str, str] | None = None, owner: str = "rs") -> Snapshot:
    given = {f"wan22.dev/{key.replace('_', '-')}": value for key, value in (annotations or {}).items()}
    owners = [{"kind": "RayService", "name": owner}] if owner else []
    metadata = {"labels": {names.MANAGED: "true"}, "annotations": given, "ownerReferences": owners}
    return read(names.RAY_CLUSTER, {"metadata": metadata, "spec": {"workerGroupSpecs": [{"groupName": "gpu-workers"}]}})


FOUR = Active(Counts(4, 1), 4)
EIGHT_PODS = ACTIVE | {"active_pods": "8"}

CASES: list[tuple[str, Snapshot, Snapshot | None, Case, tuple[str, str, str] | None]] = [
    ("a new object has its wanted size", service(annotations={"total_workers": "8"}), None, Created(), ("8", "1", "8")),
    ("a bad count leaves the spec's", service(annotations={"total_workers": "x"}), None, Created(), ("2", "1", "2")),
    (
        "a copied manifest brings its active counts",
        service(annotations=ACTIVE),
        None,
        Kept(FOUR),
        ("4", "1", "4"),
    ),
    (
        "an object that becomes managed keeps its counts",
        service(annotations={"total_workers": "8"}),
        unmanaged(),
        Adopted(unmanaged()),
        ("2", "1", "2"),
    ),
    (
        "what it was annotated with before it was managed does not count",
        service(annotations=ACTIVE),
        unmanaged(annotations=ACTIVE),
        Adopted(unmanaged(annotations=ACTIVE)),
        ("2", "1", "2"),
    ),
    (
        "an update that leaves the annotations alone",
        service(annotations=ACTIVE),
        service(annotations=ACTIVE),
        Kept(FOUR),
        ("4", "1", "4"),
    ),
    (
        "the operator's own write",
        service(annotations=EIGHT_PODS),
        service(annotations=ACTIVE),
        Kept(Active(Counts(4, 1), 8)),
        ("4", "1", "8"),
    ),
    (
        "too little room is enlarged",
        service(annotations=ACTIVE | {"active_pods": "1"}),
        service(annotations=ACTIVE),
        Kept(Active(Counts(4, 1), 1)),
        ("4", "1", "4"),
    ),
    (
        "a manifest without annotations replaces it",
        service(),
        service(annotations=ACTIVE),
        Replaced(FOUR),
        ("4", "1", "4"),
    ),
    (
        "room that was growing stays",
        service(),
        service(annotations=EIGHT_PODS),
        Replaced(Active(Counts(4, 1), 8)),
        ("4", "1", "8"),
    ),
    (
        "more GPUs in a pod need fewer pods",
        service(gpus=2, annotations=ACTIVE),
        service(annotations=ACTIVE),
        Resized(Counts(4, 1)),
        ("4", "1", "2"),
    ),
    (
        "replaced and more GPUs in a pod",
        service(gpus=2),
        service(annotations=ACTIVE),
        Resized(Counts(4, 1)),
        ("4", "1", "2"),
    ),
    ("KubeRay's RayCluster that was sized", ray_cluster(ACTIVE), ray_cluster(ACTIVE), MadeByKubeRay(), None),
    ("KubeRay's new RayCluster, with copied annotations", ray_cluster(ACTIVE), None, MadeByKubeRay(), None),
    ("KubeRay's new RayCluster without annotations", ray_cluster(), None, NotYetSized(), None),
    ("a standalone RayCluster", ray_cluster(owner=""), None, Created(), ("2", "1", "2")),
]


@pytest.mark.parametrize(("new", "old", "case", "active"), [pytest.param(*rest, id=name) for name, *rest in CASES])
def test_case(new: Snapshot, old: Snapshot | None, case: Case, active: tuple[str, str, str] | None) -> None:
    assert case_of(new, old) == case
    given = operator_annotations(case, new)
    keys = (names.ACTIVE_WORKERS, names.ACTIVE_GANGS, names.ACTIVE_PODS)
    assert (tuple(given[key] for key in keys) if given else None) == active


def test_an_object_that_becomes_managed_and_gets_its_worker_group_at_once_is_adopted() -> None:
    body = ray_service()
    old = ray_service()
    old["metadata"]["labels"] = {}
    old["spec"]["rayClusterConfig"]["workerGroupSpecs"].pop()
    assert seen(patched(body, old)) == (2, 1, 2, 2)


def test_active_annotations_are_applied_to_the_spec() -> None:
    assert seen(patched(ray_service(annotations=ACTIVE), ray_service(annotations=ACTIVE))) == (4, 1, 4, 4)


def test_only_the_counts_change() -> None:
    before, after = (
        ray_service(annotations=ACTIVE),
        patched(ray_service(annotations=ACTIVE), ray_service(annotations=ACTIVE)),
    )
    assert after["spec"]["serveConfigV2"] == render(ServeValues(total_workers=4, attention_heads=40, worker_cpus=64))
    assert after["spec"]["rayClusterConfig"]["workerGroupSpecs"][0] == {"groupName": "other", "replicas": 7}
    assert before["metadata"] == after["metadata"]


def test_an_object_that_agrees_is_left_alone() -> None:
    agreed = patched(ray_service(annotations=ACTIVE), ray_service(annotations=ACTIVE))
    assert admission.mutate(read(names.RAY_SERVICE, agreed), read(names.RAY_SERVICE, agreed)) == []


def test_a_new_object_has_its_wanted_size_from_birth() -> None:
    born = patched(ray_service(annotations={"total_workers": "8"}))
    assert seen(born) == (8, 1, 8, 8)
    assert born["metadata"]["annotations"][names.ACTIVE_PODS] == "8"


def test_an_object_that_was_there_keeps_its_counts_at_first_sight() -> None:
    old = ray_service(2)
    old["metadata"]["labels"] = {}
    labelled = patched(ray_service(2, annotations={"total_workers": "8"}), old)
    assert seen(labelled) == (2, 1, 2, 2)
    assert json.loads(labelled["metadata"]["annotations"][names.ADOPTED]) == {"totalWorkers": 2, "gangs": 1}


def test_a_replaced_manifest_does_not_lose_what_is_active() -> None:
    assert seen(patched(ray_service(2), ray_service(4, annotations=ACTIVE))) == (4, 1, 4, 4)


def test_more_gpus_in_a_pod_need_fewer_pods_at_once() -> None:
    old = patched(ray_service(4, annotations=ACTIVE), ray_service(4, annotations=ACTIVE))
    new = patched(ray_service(4, gpus=2, annotations=ACTIVE), old)
    assert seen(new) == (4, 1, 2, 2)
    assert new["metadata"]["annotations"][names.ACTIVE_PODS] == "2"


def test_room_for_pods_that_are_to_come_is_kept() -> None:
    growing = ACTIVE | {"active_pods": "8"}
    assert seen(patched(ray_service(4, annotations=growing), ray_service(4, annotations=growing))) == (4, 1, 8, 8)


def test_the_autoscalers_replicas_are_left_alone() -> None:
    body = ray_service(2, annotations=ACTIVE)
    body["spec"]["rayClusterConfig"]["enableInTreeAutoscaling"] = True
    assert seen(patched(body, body)) == (4, 1, 4, 2)


@pytest.mark.parametrize("change", ["unlabelled", "labelled otherwise", "no group", "not readable"])
def test_what_is_not_ours_is_never_touched(change: str) -> None:
    body = ray_service(2, annotations=ACTIVE)
    match change:
        case "unlabelled":
            body["metadata"]["labels"] = {}
        case "labelled otherwise":
            body["metadata"]["labels"][names.MANAGED] = "false"
        case "no group":
            body["spec"]["rayClusterConfig"]["workerGroupSpecs"].pop()
        case "not readable":
            body["spec"]["serveConfigV2"] = "applications: ["
    assert admission.mutate(read(names.RAY_SERVICE, body), None) == []


def test_a_wrong_annotation_that_got_in_stops_no_other_request() -> None:
    bad = read(names.RAY_SERVICE, ray_service(annotations={"total_workers": "four"}))
    admission.validate(bad, bad)
    with pytest.raises(RefusedError, match="four"):
        admission.validate(bad, read(names.RAY_SERVICE, ray_service()))
    with pytest.raises(RefusedError, match="four"):
        admission.validate(bad, None)


def test_a_count_that_cannot_be_set_is_refused_by_name() -> None:
    body = ray_service()
    text = body["spec"]["serveConfigV2"]
    body["spec"]["serveConfigV2"] = text.replace('"num_replicas": 1', '"num_replicas": !!int 1', 1)
    assert body["spec"]["serveConfigV2"] != text
    new = read(names.RAY_SERVICE, body)
    assert admission.mutate(new, None) == []
    with pytest.raises(RefusedError, match="num_replicas is an alias, anchor or tag"):
        admission.validate(new, None)


def test_a_raycluster_that_kuberay_made_is_not_refused_for_a_copied_annotation() -> None:
    copy = {"total_workers": "four", "gangs": "none"}
    admission.validate(ray_cluster(copy), None)
    with pytest.raises(RefusedError, match="four"):
        admission.validate(ray_cluster(copy, owner=""), None)


def test_the_operators_own_counts_are_not_judged_with_what_slipped_in_before() -> None:
    old = ray_service(2, annotations=ACTIVE)
    old["spec"]["serveConfigV2"] = old["spec"]["serveConfigV2"].replace('"route_prefix"', '"rute_prefix"')
    new = patched(old, old)
    assert seen(new) == (4, 1, 4, 4)
    admission.validate(read(names.RAY_SERVICE, new), read(names.RAY_SERVICE, old))
    changed = json.loads(json.dumps(new).replace("rute_prefix", "ruute_prefix"))
    with pytest.raises(RefusedError, match="ruute_prefix"):
        admission.validate(read(names.RAY_SERVICE, changed), read(names.RAY_SERVICE, old))


def cluster(pods: int, leaving: list[str] | None = None, spec: list[str] | None = None) -> Snapshot:
    annotations = {names.ACTIVE_WORKERS: "2", names.ACTIVE_GANGS: "1", names.ACTIVE_PODS: str(pods)}
    if leaving is not None:
        annotations[names.WORKERS_TO_DELETE] = json.dumps(leaving)
    group = {"groupName": "gpu-workers", "replicas": pods, "minReplicas": pods, "maxReplicas": pods}
    strategy = {"scaleStrategy": {"workersToDelete": spec}} if spec is not None else {}
    owner = {"kind": "RayService", "name": "rs"}
    metadata = {"labels": {names.MANAGED: "true"}, "annotations": annotations, "ownerReferences": [owner]}
    return read(names.RAY_CLUSTER, {"metadata": metadata, "spec": {"workerGroupSpecs": [group | strategy]}})


def test_leaving_pods_are_named_and_count_no_longer() -> None:
    patch = admission.drift(cluster(4, ["a", "b"]), cluster(4))
    values = {operation["path"].rsplit("/", 1)[1]: operation["value"] for operation in patch}
    assert values == {
        "replicas": 2,
        "minReplicas": 2,
        "maxReplicas": 2,
        "scaleStrategy": {"workersToDelete": ["a", "b"]},
    }


def test_workers_to_delete_are_cleared_only_where_they_were_ours() -> None:
    ours = admission.drift(cluster(2, None, ["a"]), cluster(2, ["a"], ["a"]))
    assert ours == [{"op": "add", "path": "/spec/workerGroupSpecs/0/scaleStrategy/workersToDelete", "value": []}]
    assert admission.drift(cluster(2, None, ["a"]), cluster(2, None, ["a"])) == []
