"""The check of the pods, as the API server shows them: phase, restarts and reasons."""

import datetime
from collections.abc import Iterator
from typing import Any

from wan22_operator import constants as names
from wan22_operator.snapshots import read

from wan22_doctor.facts import Json, Target, age, label, name_of, ray_pods, spoken, undeleted_worker_pods
from wan22_doctor.findings import Finding, Result, failed, ok, warning

YOUNG_SECONDS = 120
"""How long creating a container and pulling its image may take before that counts as a fault."""
RECENT_SECONDS = 900
"""How long after a restart it is reported."""
UNREADY_SECONDS = 60
"""How long a pod may run without being Ready, or exist after its deletion."""

_WAITING = {
    "ImagePullBackOff": "correct the image (image.repository, image.tag) or give imagePullSecrets",
    "ErrImagePull": "correct the image (image.repository, image.tag) or give imagePullSecrets",
    "ErrImageNeverPull": "the node has no such image, and pullPolicy is Never: load it, or change image.pullPolicy",
    "InvalidImageName": "correct the image (image.repository, image.tag)",
    "CrashLoopBackOff": "read the end of its log: kubectl logs --previous {pod}",
    "CreateContainerConfigError": "a Secret or ConfigMap that the message names is missing: create it",
    "CreateContainerError": "kubectl describe pod {pod}",
    "RunContainerError": "kubectl describe pod {pod}",
}
# A word of the scheduler's message, and the remedy.
_UNSCHEDULABLE = (
    ("gpu", "add nodes with free GPUs, or lower totalWorkers, gangs or gpusPerWorker"),
    ("cpu", "add nodes, or lower worker.resources.requests and limits"),
    ("memory", "add nodes, or lower worker.resources.requests and limits"),
    ("PersistentVolumeClaim", "kubectl get pvc: the claim needs a storage class that offers its access mode"),
    ("taint", "give worker.tolerations that fit the nodes' taints"),
    ("affinity", "correct worker.nodeSelector and worker.affinity"),
)


def ray(target: Target, pods: tuple[Json, ...], now: datetime.datetime) -> Iterator[Finding]:
    """Judge every pod of the RayClusters, and whether all worker pods exist."""
    own = ray_pods(target, pods)
    found = [finding for pod in own for finding in judge_pod(pod, now)]
    found += [finding for cluster in target.clusters for finding in _counted(cluster, own)]
    yield from found
    if not found:
        heads = sum(label(pod, names.NODE_TYPE_LABEL) == "head" for pod in own)
        text = f"{heads} head and {len(own) - heads} worker pods Ready, none restarted"
        yield ok(text) if own else failed("there is no pod", "see the events, and whether KubeRay's operator runs")


def _counted(cluster: Json, pods: list[Json]) -> Iterator[Finding]:
    group = read(names.RAY_CLUSTER, cluster).group
    if group is None:
        yield failed(
            f"RayCluster {name_of(cluster)} has no worker group {names.WORKER_GROUP}",
            f"name the group of the GPU pods {names.WORKER_GROUP}",
        )
        return
    have, want = len(undeleted_worker_pods(pods, name_of(cluster))), group.replicas or 0
    if have < want:
        yield failed(
            f"RayCluster {name_of(cluster)} has {have} of {want} worker pods",
            "see the events for what keeps KubeRay from making them (quota, Pod Security)",
        )


def judge_pod(pod: Json, now: datetime.datetime) -> Iterator[Finding]:
    """Judge one pod; a healthy one yields nothing."""
    status, name = pod.get("status") or {}, name_of(pod)
    if deleted := pod["metadata"].get("deletionTimestamp"):
        late = age(deleted, now)
        if late > UNREADY_SECONDS:
            remedy = f"see its node; kubectl delete pod {name} --force if the node is gone"
            yield warning(f"pod {name} should have been gone for {spoken(late)}", remedy)
        return
    if status.get("phase") == "Failed":
        why = f"{status.get('reason', '')} {status.get('message', '')}".strip() or "no reason given"
        yield failed(f"pod {name} failed: {why}", f"kubectl describe pod {name}; delete it to have another made")
        return
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        message = str(scheduled.get("message", ""))
        yield failed(f"pod {name} is Pending: {message}", _unschedulable(message, name))
        return
    found = list(_containers(pod, now))
    yield from found
    ready = conditions.get("Ready", {})
    if not any(one.result == Result.FAILED for one in found) and ready.get("status") != "True":
        since = age(ready.get("lastTransitionTime") or status.get("startTime"), now)
        if status.get("phase") == "Running":
            report = failed if since > UNREADY_SECONDS else warning
            why = f": {ready['message']}" if ready.get("message") else ""
            remedy = (
                "KubeRay's probes go through the proxy in http_proxy: add no_proxy=localhost,127.0.0.1,.svc (extraEnv)"
                if _probes_by_proxy(pod)
                else "each pod needs Ray and an APIEntrypoint: see the checks of Ray and Serve; "
                f"kubectl describe pod {name}"
            )
            yield report(f"pod {name} runs but is not Ready for {spoken(since)}{why}", remedy)
        elif not found and since > YOUNG_SECONDS:
            yield failed(f"pod {name} is {status.get('phase')} for {spoken(since)}", f"kubectl describe pod {name}")


def _probes_by_proxy(pod: Json) -> bool:
    """Return whether wget, which KubeRay's probes call, asks a proxy for localhost."""
    spec = pod.get("spec") or {}
    env = {one["name"]: str(one.get("value", "")) for one in spec["containers"][0].get("env") or () if "value" in one}
    return bool(env.get("http_proxy")) and not {"localhost", "*"} & set(env.get("no_proxy", "").split(","))


def _unschedulable(message: str, name: str) -> str:
    for word, remedy in _UNSCHEDULABLE:
        if word.lower() in message.lower():
            return remedy
    return f"kubectl describe pod {name}"


def _containers(pod: Json, now: datetime.datetime) -> Iterator[Finding]:
    status = pod.get("status") or {}
    for one in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        yield from _container(pod, one, now)


def _container(pod: Json, one: dict[str, Any], now: datetime.datetime) -> Iterator[Finding]:
    name, state = name_of(pod), one.get("state") or {}
    waiting, running = state.get("waiting"), state.get("running")
    last = (one.get("lastState") or {}).get("terminated") or {}
    ended = state.get("terminated") or {}
    restarts = int(one.get("restartCount") or 0)
    killed = "OOMKilled" in (last.get("reason"), ended.get("reason"))
    if killed and (not running or age(last.get("finishedAt"), now) < RECENT_SECONDS):
        limit = _limits(pod, one["name"]).get("memory", "no limit")
        yield failed(
            f"pod {name}: {one['name']} was OOMKilled (memory limit {limit}, {restarts} restarts)",
            "raise its memory limit (head.resources or worker.resources), or request smaller videos",
        )
    elif waiting and waiting.get("reason") in _WAITING:
        reason, message = waiting["reason"], str(waiting.get("message", "")).partition("\n")[0]
        died = f"; last exit {last.get('exitCode')} {last.get('reason', '')}" if last else ""
        yield failed(
            f"pod {name}: {one['name']}: {reason}: {message}{died}",
            _WAITING[reason].format(pod=name),
        )
    elif waiting:
        since = age(pod["metadata"].get("creationTimestamp"), now)
        report = failed if since > YOUNG_SECONDS and waiting.get("reason") != "PodInitializing" else warning
        yield report(
            f"pod {name}: {one['name']} is {waiting.get('reason')} for {spoken(since)}", f"kubectl describe pod {name}"
        )
    elif ended and ended.get("exitCode"):
        yield failed(
            f"pod {name}: {one['name']} ended with {ended.get('exitCode')} {ended.get('reason', '')}".rstrip(),
            f"kubectl logs {name} -c {one['name']}",
        )
    elif restarts and age(last.get("finishedAt"), now) < RECENT_SECONDS:
        yield warning(
            f"pod {name}: {one['name']} restarted {_times(restarts)}, last {spoken(age(last.get('finishedAt'), now))} "
            f"ago with exit {last.get('exitCode')} {last.get('reason', '')}".rstrip(),
            f"kubectl logs --previous {name} -c {one['name']}",
        )


def _limits(pod: Json, container: str) -> dict[str, str]:
    for one in pod["spec"]["containers"]:
        if one["name"] == container:
            return dict((one.get("resources") or {}).get("limits") or {})
    return {}


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
