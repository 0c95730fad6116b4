"""Pods that go in the middle of a task: every accepted task ends well, and the release mends itself."""

import pytest

from testing.cluster import Cluster
from testing.release import Release
from testing.waiting import until
from tests.e2e.stream import Crowd

LONG = {"num_inference_steps": 60}


def kill(release: Release, pod: str) -> None:
    """Delete a pod as a lost node does: at once."""
    release.cluster.kubectl(
        "delete", "pod", pod, f"--namespace={release.namespace}", "--grace-period=0", "--force", "--wait=false"
    )


def begin(release: Release, task_id: str) -> None:
    release.submit(task_id, **LONG)
    release.wait_for_step(task_id)


def test_a_lost_worker_pod_costs_one_attempt(standing: Release) -> None:
    pod = standing.gang_pod(leader=False)
    begin(standing, "worker-lost")
    kill(standing, pod)
    task = standing.wait_for_end("worker-lost")
    assert (task["status"], task["attempt"]) == ("succeeded", 2)
    standing.until_ready(2)
    assert pod not in standing.pod_names("ray-worker")


def test_a_lost_leaders_pod_costs_one_attempt(standing: Release) -> None:
    pod = standing.gang_pod(leader=True)
    begin(standing, "leader-lost")
    kill(standing, pod)
    task = standing.wait_for_end("leader-lost")
    assert (task["status"], task["attempt"]) == ("succeeded", 2)
    standing.until_ready(2)


def test_a_lost_head_costs_no_attempt(standing: Release) -> None:
    (before,) = standing.gangs()
    begin(standing, "head-lost")
    kill(standing, standing.pod_names("ray-head")[0])
    task = standing.wait_for_end("head-lost")
    assert (task["status"], task["attempt"]) == ("succeeded", 1), "Ray's state is in Redis, and the gang worked on"
    standing.until_ready(2)
    (after,) = standing.gangs()
    assert after["pid"] == before["pid"]
    assert standing.make("after-head")["attempt"] == 1


def test_a_lost_redis_costs_no_attempt(standing: Release) -> None:
    begin(standing, "redis-lost")
    (old,) = standing.pods("redis")
    kill(standing, old["metadata"]["name"])

    def another() -> bool:
        return [pod["metadata"]["uid"] for pod in standing.pods("redis")] != [old["metadata"]["uid"]]

    until("another Redis pod", another, 60, every=0.3)
    standing.until_ready(2)
    task = standing.wait_for_end("redis-lost")
    assert (task["status"], task["attempt"]) == ("succeeded", 1)
    assert standing.make("after-redis")["status"] == "succeeded"


def test_a_lost_operator_goes_on_where_it_was(standing: Release) -> None:
    standing.annotate(total_workers=4)
    until("the pods come", lambda: len(standing.pod_names("ray-worker")) == 4, 60, every=0.3)
    for pod in standing.pod_names("operator"):
        kill(standing, pod)
    standing.until_ready(4)
    assert standing.make("after-operator")["attempt"] == 1


def test_evicted_pods_cut_no_client_off(standing: Release) -> None:
    leaders = standing.gang_pod(leader=True)
    # A replica that found no place takes 20 s to stop. To a new head it is one that runs, and of too many it ends any.
    standing.until_serve_settled()
    begin(standing, "evicted")
    with Crowd(standing) as crowd:
        standing.evict(leaders, *standing.pod_names("ray-head"))
        assert standing.wait_for_end("evicted")["status"] == "succeeded"
        standing.until_ready(2)
    assert crowd.answered
    assert not crowd.refused


@pytest.mark.parametrize("text", ["applications:\n  - name: [wan22\n", "applications: []\napplications: []\n"])
def test_a_broken_serve_config_is_refused_at_apply(cluster: Cluster, standing: Release, text: str) -> None:
    body = standing.body()
    broken = {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "metadata": {"name": "broken", "labels": {"wan22.dev/managed": "true"}},
        "spec": body["spec"] | {"serveConfigV2": text},
    }
    with pytest.raises(AssertionError, match=r"spec\.serveConfigV2.*line \d"):
        cluster.apply(broken, namespace=standing.namespace)
