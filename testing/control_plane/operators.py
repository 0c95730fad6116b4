"""The operator as the chart runs it: its own process, the chart's environment, the token of its service account."""

import subprocess
import sys
from pathlib import Path

import yaml

import tools
from testing.control_plane.api import Json
from testing.control_plane.plane import ControlPlane
from testing.control_plane.processes import Process
from testing.ports import free_port
from testing.waiting import until

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "wan22-rayservice"
RELEASE = "wan22"
# Ray brings uvloop here, and kopf would take it. The operator's image has none: there it runs on asyncio's own loop.
_AS_IN_THE_IMAGE = """
import runpy, sys
sys.modules["uvloop"] = None
sys.argv[0] = sys.argv.pop(1)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def helm(plane: ControlPlane, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Helm as the administrator."""
    command = [str(tools.binary("helm")), *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={
            "KUBECONFIG": str(plane.admin_kubeconfig),
            "HOME": str(plane.folder),
            "HELM_CACHE_HOME": str(plane.folder / "helm"),
            "PATH": "/usr/bin:/bin",
        },
    )
    if check and done.returncode:
        raise AssertionError(f"helm {' '.join(arguments)}: {done.stderr}")
    return done


class Operator:
    """One replica, in a namespace where the chart's operator objects stand."""

    def __init__(self, plane: ControlPlane, namespace: str, name: str, port: int, **environment: str) -> None:
        self.plane, self.namespace, self.name, self.port = plane, namespace, name, port
        self.metrics_port = free_port()
        deployment = plane.admin.request("GET", f"/apis/apps/v1/namespaces/{namespace}/deployments/{RELEASE}-operator")
        self._template = deployment["spec"]["template"]["spec"]
        self._environment = environment
        account = self._template["serviceAccountName"]
        self._kubeconfig = plane.kubeconfig(f"{namespace}-{name}", plane.token(namespace, account))
        self.process: Process | None = None

    def start(self) -> "Operator":
        """Start the process, as its container would be started."""
        container = self._template["containers"][0]
        fields = {"metadata.name": self.name, "metadata.namespace": self.namespace}
        environment = {
            item["name"]: item.get("value") or fields[item["valueFrom"]["fieldRef"]["fieldPath"]]
            for item in container["env"]
            if item.get("value") or "valueFrom" in item
        }
        environment |= {
            "KUBECONFIG": str(self._kubeconfig),
            "HTTP_PROXY": self.plane.heads.url,
            "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}",
            "METRICS_PORT": str(self.metrics_port),
            "HEALTH_PORT": "0",
            "WEBHOOK_HOST": "127.0.0.1",
            "WEBHOOK_PORT": str(self.port),
            "POLL_SECONDS": "0.2",
            "LEASE_SECONDS": "2",
            **self._environment,
        }
        command = [sys.executable, "-c", _AS_IN_THE_IMAGE, *container["command"][2:], *container["args"]]
        log = self.plane.folder / f"{self.namespace}-{self.name}.log"
        self.process = Process(command, log, environment)
        return self

    def kill(self) -> None:
        """End it without a word (kill -9)."""
        assert self.process
        self.process.kill()

    def stop(self) -> None:
        """End it."""
        if self.process:
            self.process.stop()

    def log(self) -> str:
        """Return the end of its log."""
        return self.process.tail() if self.process else ""

    def answers(self) -> bool:
        """Return whether the API server reaches its webhooks: caBundle is filled, and the port is open."""
        assert self.process is not None
        assert self.process.alive(), self.log()
        base = "/apis/admissionregistration.k8s.io/v1/"
        for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
            found = self.plane.admin.get(f"{base}{kind}/{RELEASE}-operator-{self.namespace}")
            if not found or not found["webhooks"][0]["clientConfig"].get("caBundle"):
                return False
        return "webhooks are served" in self.process.log.read_text()

    def wait(self) -> "Operator":
        """Return once its webhooks answer."""
        until(f"the webhooks answer\n{self.log()}", self.answers, 30)
        return self


def operator_objects(namespace: str, *sets: str) -> list[Json]:
    """Return what the chart makes for the operator."""
    command = [tools.binary("helm"), "template", RELEASE, CHART, "--namespace", namespace]
    for value in sets:
        command += ["--set", value]
    output = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    bodies = [body for body in yaml.safe_load_all(output.stdout) if body]
    return [body for body in bodies if body["metadata"]["labels"].get("app.kubernetes.io/component") == "operator"]
