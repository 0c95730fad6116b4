"""From nothing to a video and back to nothing, as the README tells it."""

from testing.cluster import Cluster, ready
from testing.release import Release, probe
from testing.waiting import until


def test_install_makes_a_video_and_uninstall_leaves_nothing(cluster: Cluster, release: Release) -> None:
    release.install("totalWorkers=2")
    components = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in release.pods()}
    assert components == {"ray-head", "ray-worker", "redis", "operator"}
    assert all(ready(pod) for pod in release.pods())

    task = release.make("first", width=128, height=128, num_frames=9, num_inference_steps=4, fps=8)
    assert task["attempt"] == 1
    assert probe(release.video("first")) == {"codec": "h264", "width": 128, "height": 128, "frames": 9, "fps": 8.0}

    assert "video of" in release.test()

    release.uninstall()
    until("no pod is left", lambda: not cluster.pods(release.namespace), 120, every=0.5)
    left = {
        kind: cluster.kubectl("get", kind, f"--namespace={release.namespace}", "--output=name").split()
        for kind in ("rayservices,rayclusters", "services,jobs,persistentvolumeclaims", "secrets", "networkpolicies")
    }
    assert not any(left.values()), left
    webhooks = cluster.kubectl("get", "mutatingwebhookconfigurations,validatingwebhookconfigurations", "--output=name")
    assert release.namespace not in webhooks
