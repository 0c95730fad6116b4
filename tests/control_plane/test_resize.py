"""An annotation resizes the gang: in order, on KubeRay's real objects."""

from testing.control_plane.operators import Operator
from testing.waiting import until
from tests.control_plane.managed import Managed


def test_annotation_2_8_4_is_followed_in_order(managed: Managed, operator: Operator) -> None:
    managed.apply()
    managed.until_settled(2)
    name = managed.cluster_name()

    managed.plane.kubelet.held.add(managed.namespace)
    managed.annotate(total_workers=8)
    until("the RayCluster gets 8 replicas", lambda: managed.replicas(name) == 8)
    assert managed.config()[0] == 2, "the counts wait for the Ray nodes"
    managed.plane.kubelet.release(managed.namespace)
    managed.until_settled(8)

    head = managed.head()
    head.resizes = False
    managed.annotate(total_workers=4)
    until("the counts go down first", lambda: managed.config() == (4, 1, 8))
    until("KubeRay gave Serve the new count", lambda: head.counts()[0] == 4)
    assert managed.replicas(name) == 8, "no pod goes while a gang still holds it"
    kept = set(head.gangs[0][:4])
    head.resizes = True
    managed.until_settled(4)
    assert set(managed.plane.heads.pods[(managed.namespace, name)]) == kept, "the pods with ranks are those that stayed"
    strategy = managed.cluster()["spec"]["workerGroupSpecs"][0].get("scaleStrategy", {})
    assert not strategy.get("workersToDelete"), "workersToDelete is cleared afterwards"
    assert managed.cluster_name() == name, "no new cluster"


def test_kuberay_creates_the_cluster_with_the_right_replicas_from_birth(managed: Managed, operator: Operator) -> None:
    managed.apply(annotations={"wan22.dev/total-workers": "4"})
    first = until("KubeRay made a RayCluster", managed.clusters)[0]
    assert first["spec"]["workerGroupSpecs"][0]["replicas"] == 4
    managed.until_settled(4)
    assert managed.config() == (4, 1, 4)


def test_twenty_changes_in_a_second_end_in_the_last(managed: Managed, operator: Operator) -> None:
    managed.apply()
    managed.until_settled(2)
    for workers in [4, 8, 2, 5, 1] * 4:
        managed.annotate(total_workers=workers)
    managed.annotate(total_workers=4)
    managed.until_settled(4)


def test_gangs_grow_and_shrink(managed: Managed, operator: Operator) -> None:
    managed.apply(gpus=2)
    managed.until_settled(2, pods=1)
    managed.annotate(gangs=3)
    managed.until_settled(2, gangs=3, pods=3)
    managed.annotate(gangs=1, total_workers=4)
    managed.until_settled(4, gangs=1, pods=2)


def test_the_chart_counts_where_no_annotation_stands_and_an_annotation_beats_it(
    managed: Managed, operator: Operator
) -> None:
    managed.apply(workers=2)
    managed.until_settled(2)
    managed.apply(workers=4)
    managed.until_settled(4)
    managed.annotate(total_workers=5)
    managed.until_settled(5)
    managed.apply(workers=2)
    until("the annotation still counts", lambda: managed.status().get("wanted") == {"totalWorkers": 5, "gangs": 1})
    assert managed.config()[0] == 5
    managed.annotate(total_workers=None)
    managed.until_settled(2)


def test_reapplied_manifests_do_not_flap(managed: Managed, operator: Operator) -> None:
    managed.apply()
    managed.annotate(total_workers=4)
    managed.until_settled(4)
    before = managed.service()["metadata"]["generation"], managed.cluster()["metadata"]["generation"]
    written = len(managed.head().configs)
    for _ in range(10):
        managed.apply()
    assert (managed.service()["metadata"]["generation"], managed.cluster()["metadata"]["generation"]) == before
    assert len(managed.head().configs) == written, "KubeRay wrote no serveConfigV2"


def test_an_object_labelled_later_keeps_its_counts_and_then_follows(managed: Managed, operator: Operator) -> None:
    managed.apply(workers=2, managed=False, declared=False)
    name = managed.until_active()
    assert managed.annotation("active-workers") is None
    managed.api.merge(managed.path, {"metadata": {"labels": {"wan22.dev/managed": "true"}}})
    until("it is adopted", lambda: managed.status().get("phase") == "ready")
    assert (managed.config(), managed.replicas(name)) == ((2, 1, 2), 2)
    managed.annotate(total_workers=4)
    managed.until_settled(4)
    managed.annotate(total_workers=None)
    managed.until_settled(2)


def test_a_growth_without_gpus_waits_and_can_be_taken_back(managed: Managed, operator: Operator) -> None:
    managed.apply()
    managed.until_settled(2)
    managed.plane.kubelet.held.add(managed.namespace)
    managed.annotate(total_workers=8)
    until("the status says what it waits for", lambda: "have joined Ray" in managed.status().get("message", ""))
    assert managed.config()[0] == 2
    managed.annotate(total_workers=None)
    managed.until_settled(2)
