"""Install, resize, kill and weigh a release on the node of ``make cluster-up``: ``python -m benchmarks.cluster``.

Ranks compute on CPU. Prints the tables of README.md beside this file.
"""

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from prometheus_client.parser import text_string_to_metric_families

from testing.cluster import Cluster
from testing.control_plane.api import Json
from testing.release import Release
from testing.waiting import until
from tools.node import host, images, place

E2E = Path(__file__).parents[2] / "tests" / "e2e"
SETTINGS = ("totalWorkers=2", "gpusPerWorker=1")
NAMESPACE = "bench"
LONG = {"num_inference_steps": 60}
ROUNDS = 3

Rows = list[list[float | str]]


def main() -> None:
    """Measure and print."""
    here = place.default()
    host.up(here)
    images.load(here)
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(here.kubeconfig, Path(folder), [E2E / "values.yaml", E2E / "node-values.yaml"])
        cluster.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        release = Release(cluster, NAMESPACE)
        try:
            install(release)
            resize(release)
            kill(release)
            memory(cluster)
        finally:
            release.uninstall()
            release.close()
            cluster.api.delete(f"/api/v1/namespaces/{NAMESPACE}")
            cluster.stop()


def install(release: Release) -> None:
    """Time an installation until its first video."""
    start = time.monotonic()
    release.install(*SETTINGS)
    ready = time.monotonic()
    release.make("first")
    done = time.monotonic()
    table(
        ["from helm install until", "seconds"], [["all pods Ready", ready - start], ["the first video", done - start]]
    )


def resize(release: Release) -> None:
    """Time annotations, up and down, and their parts."""
    rows: list[tuple[str, list[float]]] = []
    for workers in (4, 2) * ROUNDS:
        start = time.monotonic()
        release.annotate(total_workers=workers)
        pods = _until(lambda: len(_running(release)) == 4) - start if workers == 4 else 0.0
        told = _until(lambda: release.annotation("active-workers") == str(workers)) - start  # noqa: B023
        gang = _until(lambda: [one["have"] for one in release.gangs()] == [workers]) - start  # noqa: B023
        release.until_settled()
        release.until_ready(workers)
        ready = time.monotonic() - start
        rows.append((f"to {workers}", [pods, told - pods, gang - told, gang, ready]))
    names = [
        "pods run",
        "Ray nodes in, counts written",
        "Serve and gang",
        "gang serves, in all",
        "pods settled, in all",
    ]
    best: Rows = []
    for way in ("to 4", "to 2"):
        rounds = [values for name, values in rows if name == way]
        best.append([way, *(median(values) for values in zip(*rounds, strict=True))])
    table(["annotation", *names], best)


def kill(release: Release) -> None:
    """Time from the loss of a pod in the middle of a task until that task's end, and until the next task's."""
    rows: Rows = []
    for component in ("nothing", "ray-worker", "ray-head", "redis", "operator"):
        ends, nexts = [], []
        for number in range(ROUNDS):
            release.until_ready(2)
            name = f"{component}-{number}"
            release.submit(name, **LONG)
            release.wait_for_step(name)
            if component != "nothing":
                pod = release.pod_names(component)[0]
                flags = ("--grace-period=0", "--force", "--wait=false", f"--namespace={NAMESPACE}")
                release.cluster.kubectl("delete", "pod", pod, *flags)
            start = time.monotonic()
            task = release.wait_for_end(name)
            assert task["status"] == "succeeded", task
            ends.append(time.monotonic() - start)
            until("the API takes a task", lambda: _submitted(release, f"{name}-next"), 120)  # noqa: B023
            release.wait_for_end(f"{name}-next")
            nexts.append(time.monotonic() - start)
        rows.append([component, median(ends), median(nexts), str(task["attempt"])])
    table(["pod that is lost", "seconds to the task's end", "to the next task's", "attempts"], rows)


def memory(cluster: Cluster) -> None:
    """Weigh every pod by the kubelet's own figures."""
    (node,) = cluster.api.request("GET", "/api/v1/nodes")["items"]
    text = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node['metadata']['name']}/proxy/metrics/resource")
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    rows: Rows = [
        [_short(sample.labels["pod"]), sample.value / 2**20]
        for sample in families["pod_memory_working_set_bytes"]
        if sample.labels["namespace"] == NAMESPACE
    ]
    rows.append(["all", sum(float(str(row[1])) for row in rows)])
    table(["pod", "working set, MiB"], rows)


def _running(release: Release) -> list[Json]:
    return [pod for pod in release.pods("ray-worker") if pod["status"].get("phase") == "Running"]


def _until(condition: Callable[[], bool]) -> float:
    until("the next part of a resize", condition, 240, every=0.1)
    return time.monotonic()


def _submitted(release: Release, name: str) -> bool:
    try:
        release.submit(name)
    except (AssertionError, OSError):
        return False
    return True


def _short(name: str) -> str:
    """Return a pod's name without what Kubernetes made up, which has no vowels."""
    return re.sub(r"-[bcdfghjklmnpqrstvwxz2456789]{5}(?=-|$)|-[0-9a-f]{8,10}(?=-)", "", name)


def table(head: list[str], rows: Rows) -> None:
    """Print a Markdown table."""
    lines: Rows = [[*head], ["---"] * len(head), *rows]
    for row in lines:
        print("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    print(flush=True)


if __name__ == "__main__":
    main()
