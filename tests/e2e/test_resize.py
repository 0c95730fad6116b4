"""An annotation resizes the running gang: pods and ranks follow in order, and no task is lost."""

from testing.release import Release
from tests.e2e.stream import Crowd, Stream, assert_all_succeeded

LONG = {"num_inference_steps": 60}
"""A good while on the tiny model: a resize falls into its middle."""


def test_two_four_two_across_pods_while_tasks_wait_and_run(standing: Release) -> None:
    (before,) = standing.gangs()
    pods = set(standing.pod_names("ray-worker"))
    tasks = []
    with Stream(standing, "resize") as stream, Crowd(standing) as crowd:
        for workers in (4, 2):
            tasks.append(f"running-{workers}")
            standing.submit(tasks[-1], **LONG)
            standing.wait_for_step(tasks[-1])
            standing.annotate(total_workers=workers)
            standing.until_ready(workers)
            standing.until_settled()
            assert len(standing.pod_names("ray-worker")) == workers
    assert not stream.refused, "APIEntrypoint takes every task"
    assert crowd.answered
    assert not crowd.refused, "a pod that leaves ends what it answers"
    assert_all_succeeded([standing.wait_for_end(task) for task in tasks] + stream.ends(), attempt=1)
    (after,) = standing.gangs()
    assert after["pid"] == before["pid"], "the leader stayed"
    assert set(standing.pod_names("ray-worker")) == pods, "the pods that came last went first"
    assert len(standing.clusters()) == 1, "no new cluster"


def test_the_leaders_pod_is_never_the_one_that_goes(standing: Release) -> None:
    (before,) = standing.gangs()
    (home,) = [node["ip"] for node in before["nodes"] if node["leader"]]
    standing.annotate(total_workers=1)
    standing.until_ready(1)
    standing.until_settled()
    (pod,) = standing.pods("ray-worker")
    assert pod["status"]["podIP"] == home
    (after,) = standing.gangs()
    assert after["pid"] == before["pid"]
    assert standing.make("with-one")["attempt"] == 1


def test_gangs_are_added_and_taken_away(standing: Release) -> None:
    standing.annotate(gangs=2)
    standing.until_ready(2, gangs=2)
    assert len(standing.pod_names("ray-worker")) == 4
    names = [f"gangs-{number}" for number in range(4)]
    for name in names:
        standing.submit(name)
    assert_all_succeeded([standing.wait_for_end(name) for name in names], attempt=1)
    standing.annotate(gangs=None)
    standing.until_ready(2)
    standing.until_settled()
    assert len(standing.pod_names("ray-worker")) == 2


def test_within_a_pod_no_pod_comes_or_goes(release: Release) -> None:
    # A second release beside the standing one: neither knows of the other.
    release.install("totalWorkers=2", "gpusPerWorker=4", "worker.resources.limits.cpu=4")
    (pod,) = release.pod_names("ray-worker")
    (before,) = release.gangs()
    release.submit("within", **LONG)
    release.wait_for_step("within")
    for workers in (4, 2):
        release.annotate(total_workers=workers)
        release.until_ready(workers)
    assert release.wait_for_end("within")["attempt"] == 1
    (after,) = release.gangs()
    assert after["pid"] == before["pid"]
    assert release.pod_names("ray-worker") == [pod]
