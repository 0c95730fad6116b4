"""`helm upgrade` to other pods: a new cluster takes over when it is whole, and one that never is burns no task."""

from testing.cluster import phase
from testing.release import Release
from testing.waiting import until
from tests.e2e.stream import Stream, assert_all_succeeded

LONG = {"num_inference_steps": 60}
NO_FINALIZERS = '{"metadata":{"finalizers":null}}'


def other_image(release: Release) -> str:
    """Return a value that names the image differently from what runs: to Kubernetes it is another one."""
    image: str = release.pods("ray-head")[0]["spec"]["containers"][0]["image"]
    repository = image.rsplit(":", 1)[0]
    prefix = "docker.io/library/"
    return (
        f"image.repository={repository.removeprefix(prefix) if repository.startswith(prefix) else prefix + repository}"
    )


def test_a_new_image_takes_over_without_a_refused_or_lost_task(standing: Release) -> None:
    (old,) = standing.clusters()
    standing.submit("drains", **LONG)
    standing.wait_for_step("drains")
    with Stream(standing, "upgrade", every=2) as stream:
        standing.change(other_image(standing))
        until("the old cluster is gone", lambda: old not in standing.clusters(), 300, every=0.5)
        standing.until_ready(2)
    assert not stream.refused
    assert_all_succeeded([standing.wait_for_end("drains"), *stream.ends()], attempt=1)


def test_an_image_that_cannot_start_burns_no_task_and_the_old_gang_serves_on(standing: Release) -> None:
    (before,) = standing.gangs()
    (old,) = standing.clusters()
    standing.change("image.tag=missing")

    def stuck() -> bool:
        return any(phase(pod) in ("ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff") for pod in standing.pods())

    until("its pods cannot start", stuck, 90, every=0.3)
    assert standing.make("meanwhile")["attempt"] == 1
    (after,) = standing.gangs()
    assert after["pid"] == before["pid"]
    (never,) = set(standing.clusters()) - {old}
    standing.change("image.tag=")
    # KubeRay makes a new cluster for the values that the old one has, and switches to it. Its clean-up of the one that
    # never stood has the image that is nowhere, so a person ends that, as the chart's README says.
    until(
        "the one that never stood is to go", lambda: "deletionTimestamp" in standing.cluster_meta(never), 120, every=0.3
    )
    standing.cluster.kubectl(
        "patch", f"--namespace={standing.namespace}", "raycluster", never, "--type=merge", "--patch", NO_FINALIZERS
    )
    until(
        "one new cluster is left",
        lambda: len(standing.clusters()) == 1 and old not in standing.clusters(),
        300,
        every=0.3,
    )
    standing.until_ready(2)
    assert standing.make("afterwards")["attempt"] == 1


def test_in_two_steps_where_the_gpus_do_not_suffice_for_two_clusters(standing: Release) -> None:
    names = ["runs", "waits", "waits-too"]
    for name in names:
        standing.submit(name, **LONG)
    standing.wait_for_step("runs")
    image = other_image(standing)
    standing.change("ray.suspend=true")
    until("no Ray pod is left", lambda: not standing.pods("ray-head") + standing.pods("ray-worker"), 120, every=0.3)
    standing.change("ray.suspend=false", image)
    standing.until_ready(2)
    assert_all_succeeded([standing.wait_for_end(name) for name in names])
