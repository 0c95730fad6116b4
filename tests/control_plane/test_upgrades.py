"""What KubeRay does to clusters by itself: upgrades, rewrites, suspension."""

from tests.control_plane.operators import Operator
from tests.control_plane.world import World
from tests.waiting import until


def test_an_annotation_during_an_upgrade_sizes_the_pending_cluster_and_leaves_the_active_one(
    world: World, operator: Operator
) -> None:
    world.apply()
    world.until_settled(2)
    old = world.cluster_name()
    world.plane.kubelet.held.add(world.namespace)
    world.apply(image="wan22:2")
    pending = world.until_pending()
    written = len(world.head(old).configs)
    world.annotate(total_workers=4)
    until("the pending cluster is sized", lambda: world.replicas(pending) == 4)
    assert world.replicas(old) == 2, "the active one is left alone"
    world.plane.kubelet.release(world.namespace)
    until("the new cluster is active", lambda: world.cluster_name() == pending, 60)
    world.until_settled(4)
    assert len(world.head(old).configs) == written, "the old cluster was given no new serveConfigV2"
    until("the old cluster is gone", lambda: len(world.clusters()) == 1)


def test_gpus_per_worker_changed_with_the_image_gives_a_pending_cluster_of_the_right_size(
    world: World, operator: Operator
) -> None:
    world.apply(workers=4, gpus=1)
    world.until_settled(4)
    old = world.cluster_name()
    world.plane.kubelet.held.add(world.namespace)
    world.apply(workers=4, gpus=2, image="wan22:2")
    pending = world.until_pending()
    assert (world.replicas(pending), world.replicas(old)) == (2, 4)
    world.plane.kubelet.release(world.namespace)
    world.until_settled(4, pods=2)


def test_a_kuberay_rewrite_in_the_middle_of_a_growth_loses_no_pod(world: World, operator: Operator) -> None:
    world.apply()
    world.until_settled(2)
    name = world.cluster_name()
    before = set(world.workers())
    world.plane.kubelet.held.add(world.namespace)
    world.annotate(total_workers=8)
    until("the pods are there", lambda: len(world.workers()) == 8)
    _rewrite(world, name)
    assert world.replicas(name) == 8
    assert before <= set(world.workers())
    world.plane.kubelet.release(world.namespace)
    world.until_settled(8)
    assert before <= set(world.workers())


def test_a_kuberay_version_bump_keeps_the_count(world: World, operator: Operator) -> None:
    world.apply()
    world.annotate(total_workers=4)
    world.until_settled(4)
    pods = set(world.workers())
    _rewrite(world, world.cluster_name())
    world.until_settled(4)
    assert set(world.workers()) == pods


def test_a_suspend_toggle_keeps_the_count_and_takes_a_change_along(world: World, operator: Operator) -> None:
    world.apply()
    world.annotate(total_workers=4)
    world.until_settled(4)
    name = world.cluster_name()
    _suspend(world, True)
    until("KubeRay rewrites the RayCluster", lambda: world.cluster(name)["spec"].get("suspend"))
    until("the pods are gone", lambda: not world.workers(name))
    until("the status says so", lambda: world.status()["phase"] == "suspended")
    world.annotate(total_workers=5)
    until("the change is taken along", lambda: world.replicas(name) == 5)
    _suspend(world, False)
    until("KubeRay rewrites it again", lambda: not world.cluster(name)["spec"].get("suspend"))
    world.until_settled(5)
    assert world.cluster_name() == name


def _rewrite(world: World, cluster: str) -> None:
    """Have KubeRay rewrite a RayCluster from its RayService, as a newer KubeRay does."""
    path = f"{world.base}/rayclusters/{cluster}"
    world.api.merge(path, {"metadata": {"annotations": {"ray.io/kuberay-version": "v1.0.0"}}})
    until(
        "KubeRay rewrites the RayCluster",
        lambda: world.cluster(cluster)["metadata"]["annotations"]["ray.io/kuberay-version"] != "v1.0.0",
    )


def _suspend(world: World, value: bool) -> None:
    patch = [{"op": "add", "path": "/spec/rayClusterConfig/suspend", "value": value}]
    world.api.request("PATCH", world.path, patch, "json-patch+json")
