"""What went on in a namespace, for the report of a test that failed."""

from testing.cluster import Cluster, phase, ready
from testing.control_plane.api import Json

EVENTS = 40
LINES = 25


def diagnose(cluster: Cluster, namespace: str) -> str:
    """Return the namespace's pods and claims, its last Events, the Ray objects' state and the ends of all logs."""
    try:
        return "\n".join(_parts(cluster, namespace))
    except Exception as error:
        # The test's own failure must be reported, whatever the cluster says.
        return f"cannot be looked at: {error!r}"


def _parts(cluster: Cluster, namespace: str) -> list[str]:
    pods = cluster.pods(namespace)
    parts = ["-- pods"]
    parts += [f"{pod['metadata']['name']}: {phase(pod)}{', Ready' if ready(pod) else ''}" for pod in pods]
    claims = cluster.api.request("GET", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims")["items"]
    parts.append("-- claims")
    parts += [
        f"{claim['metadata']['name']}: {claim['status'].get('phase')}, volume {claim['spec'].get('volumeName')}, "
        f"annotations {claim['metadata'].get('annotations')}"
        for claim in claims
    ]
    for kind in ("rayservices", "rayclusters"):
        for item in cluster.api.request("GET", f"/apis/ray.io/v1/namespaces/{namespace}/{kind}")["items"]:
            parts.append(f"-- {kind} {item['metadata']['name']}")
            parts.append(f"annotations: {item['metadata'].get('annotations')}")
            parts.append(f"status: {item.get('status')}")
    events: list[Json] = cluster.api.request("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
    events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    parts.append("-- events")
    parts += [
        f"{event.get('lastTimestamp') or event.get('eventTime')} {event['involvedObject'].get('name')} "
        f"{event.get('reason')}: {event.get('message')} {event.get('series') or ''}".rstrip()
        for event in events[-EVENTS:]
    ]
    for pod in pods:
        name = pod["metadata"]["name"]
        parts += [f"-- logs of {name}", cluster.logs(namespace, name, LINES)]
        if any(one.get("restartCount") for one in pod["status"].get("containerStatuses", ())):
            parts += [f"-- logs of {name} before its restart", cluster.logs(namespace, name, LINES, previous=True)]
    if cluster.log:
        kuberay = (cluster.log / "kuberay-operator.log").read_text(errors="replace").splitlines()
        parts += ["-- KubeRay's log", *[line for line in kuberay if namespace in line][-LINES:]]
    return parts
