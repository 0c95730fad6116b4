"""An annotation resizes the gang: in order, on KubeRay's real objects."""

from tests.control_plane.operators import Operator
from tests.control_plane.world import World
from tests.waiting import until


def test_annotation_2_8_4_is_followed_in_order(world: World, operator: Operator) -> None:
    world.apply()
    world.until_settled(2)
    name = world.cluster_name()

    world.plane.kubelet.held.add(world.namespace)
    world.annotate(total_workers=8)
    until("the RayCluster gets 8 replicas", lambda: world.replicas(name) == 8)
    assert world.config()[0] == 2, "the counts wait for the Ray nodes"
    world.plane.kubelet.release(world.namespace)
    world.until_settled(8)

    head = world.head()
    head.resizes = False
    world.annotate(total_workers=4)
    until("the counts go down first", lambda: world.config() == (4, 1, 8))
    until("KubeRay gave Serve the new count", lambda: head.counts()[0] == 4)
    assert world.replicas(name) == 8, "no pod goes while a gang still holds it"
    kept = set(head.gangs[0][:4])
    head.resizes = True
    world.until_settled(4)
    assert set(world.plane.heads.pods[(world.namespace, name)]) == kept, "the pods with ranks are those that stayed"
    strategy = world.cluster()["spec"]["workerGroupSpecs"][0].get("scaleStrategy", {})
    assert not strategy.get("workersToDelete"), "workersToDelete is cleared afterwards"
    assert world.cluster_name() == name, "no new cluster"


def test_kuberay_creates_the_cluster_with_the_right_replicas_from_birth(world: World, operator: Operator) -> None:
    world.apply(annotations={"wan22.dev/total-workers": "4"})
    first = until("KubeRay made a RayCluster", world.clusters)[0]
    assert first["spec"]["workerGroupSpecs"][0]["replicas"] == 4
    world.until_settled(4)
    assert world.config() == (4, 1, 4)


def test_twenty_changes_in_a_second_end_in_the_last(world: World, operator: Operator) -> None:
    world.apply()
    world.until_settled(2)
    for workers in [4, 8, 2, 5, 1] * 4:
        world.annotate(total_workers=workers)
    world.annotate(total_workers=4)
    world.until_settled(4)


def test_gangs_grow_and_shrink(world: World, operator: Operator) -> None:
    world.apply(gpus=2)
    world.until_settled(2, pods=1)
    world.annotate(gangs=3)
    world.until_settled(2, gangs=3, pods=3)
    world.annotate(gangs=1, total_workers=4)
    world.until_settled(4, gangs=1, pods=2)


def test_the_chart_counts_where_no_annotation_stands_and_an_annotation_beats_it(
    world: World, operator: Operator
) -> None:
    world.apply(workers=2)
    world.until_settled(2)
    world.apply(workers=4)
    world.until_settled(4)
    world.annotate(total_workers=5)
    world.until_settled(5)
    world.apply(workers=2)
    until("the annotation still counts", lambda: world.status().get("wanted") == {"totalWorkers": 5, "gangs": 1})
    assert world.config()[0] == 5
    world.annotate(total_workers=None)
    world.until_settled(2)


def test_reapplied_manifests_do_not_flap(world: World, operator: Operator) -> None:
    world.apply()
    world.annotate(total_workers=4)
    world.until_settled(4)
    before = world.service()["metadata"]["generation"], world.cluster()["metadata"]["generation"]
    written = len(world.head().configs)
    for _ in range(10):
        world.apply()
    assert (world.service()["metadata"]["generation"], world.cluster()["metadata"]["generation"]) == before
    assert len(world.head().configs) == written, "KubeRay wrote no serveConfigV2"


def test_an_object_labelled_later_keeps_its_counts_and_then_follows(world: World, operator: Operator) -> None:
    world.apply(workers=2, managed=False, declared=False)
    name = world.until_active()
    assert world.annotation("active-workers") is None
    world.api.merge(world.path, {"metadata": {"labels": {"wan22.dev/managed": "true"}}})
    until("it is adopted", lambda: world.status().get("phase") == "ready")
    assert (world.config(), world.replicas(name)) == ((2, 1, 2), 2)
    world.annotate(total_workers=4)
    world.until_settled(4)
    world.annotate(total_workers=None)
    world.until_settled(2)


def test_a_growth_without_gpus_waits_and_can_be_taken_back(world: World, operator: Operator) -> None:
    world.apply()
    world.until_settled(2)
    world.plane.kubelet.held.add(world.namespace)
    world.annotate(total_workers=8)
    until("the status says what it waits for", lambda: "have joined Ray" in world.status().get("message", ""))
    assert world.config()[0] == 2
    world.annotate(total_workers=None)
    world.until_settled(2)
