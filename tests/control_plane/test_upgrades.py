"""What KubeRay does to clusters by itself: upgrades, rewrites, suspension."""

from testing.control_plane.operators import Operator
from testing.waiting import until
from tests.control_plane.managed import Managed


def test_an_annotation_during_an_upgrade_sizes_the_pending_cluster_and_leaves_the_active_one(
    managed: Managed, operator: Operator
) -> None:
    managed.apply()
    managed.until_settled(2)
    old = managed.cluster_name()
    managed.plane.kubelet.held.add(managed.namespace)
    managed.apply(image="wan22:2")
    pending = managed.until_pending()
    written = len(managed.head(old).configs)
    managed.annotate(total_workers=4)
    until("the pending cluster is sized", lambda: managed.replicas(pending) == 4)
    assert managed.replicas(old) == 2, "the active one is left alone"
    managed.plane.kubelet.release(managed.namespace)
    until("the new cluster is active", lambda: managed.cluster_name() == pending, 60)
    managed.until_settled(4)
    assert len(managed.head(old).configs) == written, "the old cluster was given no new serveConfigV2"
    until("the old cluster is gone", lambda: len(managed.clusters()) == 1)


def test_gpus_per_worker_changed_with_the_image_gives_a_pending_cluster_of_the_right_size(
    managed: Managed, operator: Operator
) -> None:
    managed.apply(workers=4, gpus=1)
    managed.until_settled(4)
    old = managed.cluster_name()
    managed.plane.kubelet.held.add(managed.namespace)
    managed.apply(workers=4, gpus=2, image="wan22:2")
    pending = managed.until_pending()
    assert (managed.replicas(pending), managed.replicas(old)) == (2, 4)
    managed.plane.kubelet.release(managed.namespace)
    managed.until_settled(4, pods=2)


def test_a_kuberay_rewrite_in_the_middle_of_a_growth_loses_no_pod(managed: Managed, operator: Operator) -> None:
    managed.apply()
    managed.until_settled(2)
    name = managed.cluster_name()
    before = set(managed.workers())
    managed.plane.kubelet.held.add(managed.namespace)
    managed.annotate(total_workers=8)
    until("the pods are there", lambda: len(managed.workers()) == 8)
    _rewrite(managed, name)
    assert managed.replicas(name) == 8
    assert before <= set(managed.workers())
    managed.plane.kubelet.release(managed.namespace)
    managed.until_settled(8)
    assert before <= set(managed.workers())


def test_a_kuberay_version_bump_keeps_the_count(managed: Managed, operator: Operator) -> None:
    managed.apply()
    managed.annotate(total_workers=4)
    managed.until_settled(4)
    pods = set(managed.workers())
    _rewrite(managed, managed.cluster_name())
    managed.until_settled(4)
    assert set(managed.workers()) == pods


def test_a_suspend_toggle_keeps_the_count_and_takes_a_change_along(managed: Managed, operator: Operator) -> None:
    managed.apply()
    managed.annotate(total_workers=4)
    managed.until_settled(4)
    name = managed.cluster_name()
    _suspend(managed, True)
    until("KubeRay rewrites the RayCluster", lambda: managed.cluster(name)["spec"].get("suspend"))
    until("the pods are gone", lambda: not managed.workers(name))
    until("the status says so", lambda: managed.status()["phase"] == "suspended")
    managed.annotate(total_workers=5)
    until("the change is taken along", lambda: managed.replicas(name) == 5)
    _suspend(managed, False)
    until("KubeRay rewrites it again", lambda: not managed.cluster(name)["spec"].get("suspend"))
    managed.until_settled(5)
    assert managed.cluster_name() == name


def test_a_new_image_and_a_new_count_in_one_write_leave_the_active_cluster_alone(
    managed: Managed, operator: Operator
) -> None:
    managed.apply()
    managed.until_settled(2)
    old = managed.cluster_name()
    sizes = set()

    def active() -> bool:
        sizes.add(managed.replicas(old))
        return managed.cluster_name() != old

    managed.apply(workers=4, image="wan22:2")
    until("the new cluster is active", active, 60, every=0.02)
    assert sizes == {2}
    managed.until_settled(4)


def test_an_upgrade_in_the_middle_of_a_growth_frees_the_pods_that_the_old_cluster_does_not_need(
    managed: Managed, operator: Operator
) -> None:
    managed.apply()
    managed.until_settled(2)
    old, before = managed.cluster_name(), set(managed.workers())
    managed.plane.kubelet.held.add(managed.namespace)
    managed.annotate(total_workers=4)
    until("the growth is under way", lambda: managed.replicas(old) == 4)
    managed.apply(image="wan22:2")
    pending = managed.until_pending()
    until("the old cluster has the pods of its gang alone", lambda: set(managed.workers(old)) == before)
    managed.plane.kubelet.release(managed.namespace)
    until("the new cluster is active", lambda: managed.cluster_name() == pending, 60)
    managed.until_settled(4)


def _rewrite(managed: Managed, cluster: str) -> None:
    """Have KubeRay rewrite a RayCluster from its RayService, as a newer KubeRay does."""
    path = f"{managed.base}/rayclusters/{cluster}"
    managed.api.merge(path, {"metadata": {"annotations": {"ray.io/kuberay-version": "v1.0.0"}}})
    until(
        "KubeRay rewrites the RayCluster",
        lambda: managed.cluster(cluster)["metadata"]["annotations"]["ray.io/kuberay-version"] != "v1.0.0",
    )


def _suspend(managed: Managed, value: bool) -> None:
    patch = [{"op": "add", "path": "/spec/rayClusterConfig/suspend", "value": value}]
    managed.api.request("PATCH", managed.path, patch, "json-patch+json")
