"""Who may reach what: NetworkPolicy between pods, and Ray's token on the dashboard."""

from collections.abc import Callable

import pytest

from testing.cluster import Cluster, ready
from testing.control_plane.api import Json
from testing.release import Release
from testing.waiting import until

TRY = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        print(address)
    except OSError:
        pass
"""


@pytest.fixture
def foreigner(cluster: Cluster, standing: Release, namespaces: Callable[[], str]) -> Callable[..., set[str]]:
    """A pod of another namespace; call it with addresses, and it says which of them it reaches."""
    namespace = namespaces()
    image = standing.pods("ray-head")[0]["spec"]["containers"][0]["image"]
    security: Json = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "foreigner"},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sleep", "600"],
                    "securityContext": security,
                }
            ],
        },
    }
    cluster.apply(pod, namespace=namespace)
    until(
        "the foreigner runs",
        lambda: all(map(ready, cluster.pods(namespace))) and cluster.pods(namespace),
        60,
        every=0.3,
    )

    def reached(*addresses: str) -> set[str]:
        return set(cluster.execute(namespace, "foreigner", "python3", "-c", TRY, *addresses).split())

    return reached


def test_a_foreign_pod_reaches_the_api_and_nothing_else(
    cluster: Cluster, standing: Release, foreigner: Callable[..., set[str]]
) -> None:
    # By default the dashboard is open to everybody who has the token, since nobody knows where KubeRay runs.
    selector = "networkPolicy.dashboardFrom[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name"
    standing.change(f"{selector}={standing.namespace}")
    head, worker = (standing.pods(name)[0]["status"]["podIP"] for name in ("ray-head", "ray-worker"))
    redis = standing.pods("redis")[0]["status"]["podIP"]
    api = {f"{worker}:8000"}
    others = {f"{head}:{port}" for port in (6379, 8265, 10001, 8080)}
    others |= {f"{worker}:{port}" for port in (8080, 52365)} | {f"{redis}:6379"}
    until("the policies hold", lambda: foreigner(*api, *others) == api, 60, every=1)
    # Ray's own pods talk on all their ports: the gang works, and forms anew on any port.
    standing.annotate(total_workers=1)
    standing.until_ready(1)
    standing.annotate(total_workers=2)
    standing.until_ready(2)
    assert standing.make("behind-policies")["status"] == "succeeded"


def test_the_dashboard_asks_for_rays_token(standing: Release) -> None:
    reply = standing.dashboard.get("/api/serve/applications/")
    assert reply.status_code in (401, 403)
