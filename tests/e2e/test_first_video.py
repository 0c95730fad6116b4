"""From nothing to a video and back to nothing, as the README tells it."""

from pathlib import Path

from testing.cluster import Cluster, ready
from testing.kubectl_plugin import kubectl_wan22
from testing.release import Release, probe
from testing.waiting import until


def test_install_makes_a_video_and_uninstall_leaves_nothing(cluster: Cluster, release: Release, tmp_path: Path) -> None:
    release.install("totalWorkers=2")
    components = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in release.pods()}
    assert components == {"ray-head", "ray-worker", "redis", "operator"}
    assert all(ready(pod) for pod in release.pods())

    task = release.make("first", width=128, height=128, num_frames=9, num_inference_steps=4, fps=8)
    assert task["attempt"] == 1
    assert probe(release.video("first")) == {"codec": "h264", "width": 128, "height": 128, "frames": 9, "fps": 8.0}

    small = ("--width", 128, "--height", 128, "--num-frames", 9, "--num-inference-steps", 4, "--fps", 8)
    done = kubectl_wan22(cluster.kubeconfig, tmp_path, "generate", "a", "-n", release.namespace, *small, "-o", "a.mp4")
    assert (done.returncode, done.stdout) == (0, "a.mp4\n"), done.stderr
    assert probe((tmp_path / "a.mp4").read_bytes())["frames"] == 9
    assert kubectl_wan22(cluster.kubeconfig, tmp_path, "status", "-n", release.namespace).returncode == 0

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
