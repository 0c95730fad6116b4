"""A cluster whose pods run, as a user reaches it: kubectl, Helm, and HTTP through the API server."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx
import yaml

import tools
from testing.control_plane.api import Api, Json
from testing.control_plane.processes import Process
from testing.waiting import until


class Cluster:
    """One cluster; ``stop`` ends what the tests started beside it, and leaves the cluster alone."""

    def __init__(self, kubeconfig: Path, folder: Path, values: Sequence[Path] = (), log: Path | None = None) -> None:
        """Keep ``values`` (files for Helm that suit this cluster) and ``log`` (a folder with the control plane's)."""
        self.kubeconfig, self.folder, self.values, self.log = kubeconfig, folder, values, log
        self._environment = {
            "KUBECONFIG": str(kubeconfig),
            "HOME": str(folder),
            "HELM_CACHE_HOME": str(folder / "helm"),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }
        # kubectl's proxy knows every way to log in; behind it, the API server is plain HTTP on loopback.
        self._proxy = Process([tools.binary("kubectl"), "proxy", "--port=0"], folder / "proxy.log", self._environment)
        self.url = until("kubectl proxy says its port", self._proxy_url)
        self.api = Api(self.url)

    def stop(self) -> None:
        """End the proxy."""
        self.api.http.close()
        self._proxy.kill()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and return what it prints."""
        return self._run("kubectl", arguments, stdin)

    def helm(self, *arguments: str) -> str:
        """Run Helm and return what it prints."""
        return self._run("helm", arguments)

    def apply(self, *bodies: Json, namespace: str) -> None:
        """Apply objects as ``kubectl apply -f`` does."""
        self.kubectl("apply", f"--namespace={namespace}", "--filename=-", stdin=yaml.safe_dump_all(bodies))

    def pods(self, namespace: str, selector: str = "") -> list[Json]:
        """Return the pods of a namespace."""
        query = {"labelSelector": selector} if selector else {}
        items: list[Json] = self.api.request("GET", f"/api/v1/namespaces/{namespace}/pods", **query)["items"]
        return items

    def service(self, namespace: str, name: str, port: int, seconds: float = 30) -> httpx.Client:
        """Return a client of a Service: each request goes to one of its ready pods, by way of the API server."""
        path = f"/api/v1/namespaces/{namespace}/services/{name}:{port}/proxy"
        return httpx.Client(base_url=f"{self.url}{path}", timeout=seconds, trust_env=False)

    def execute(self, namespace: str, pod: str, *command: str) -> str:
        """Run a program in a pod and return what it prints."""
        return self.kubectl("exec", f"--namespace={namespace}", pod, "--", *command)

    def logs(self, namespace: str, pod: str, lines: int = 40, *, previous: bool = False) -> str:
        """Return the end of the logs of a pod's containers; empty where there are none."""
        arguments = [f"--namespace={namespace}", pod, "--all-containers", "--prefix", f"--tail={lines}"]
        done = subprocess.run(
            [tools.binary("kubectl"), "logs", *arguments, *(["--previous"] if previous else [])],
            capture_output=True,
            text=True,
            env=self._environment,
        )
        return done.stdout

    def _run(self, program: str, arguments: Sequence[str], stdin: str | None = None) -> str:
        command = [str(tools.binary(program)), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=self._environment)
        if done.returncode:
            raise CommandFailed(f"{program} {' '.join(arguments)}: {done.stderr.strip()}\n{done.stdout.strip()}")
        return done.stdout

    def _proxy_url(self) -> str | None:
        assert self._proxy.alive(), self._proxy.tail()
        said = self._proxy.log.read_text()
        return f"http://{said.split()[-1]}" if said.startswith("Starting to serve on") else None


class CommandFailed(AssertionError):
    """kubectl or Helm refused; the message is its own."""


def phase(pod: Json) -> str:
    """Return a pod's state in a word or two, as ``kubectl get pods`` shows it."""
    status = pod["status"]
    for container in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]:
        for state in container["state"].values():
            if "reason" in state and state["reason"] != "Completed":
                return str(state["reason"])
    return str(status.get("phase", "Unknown"))


def ready(pod: Json) -> bool:
    """Return whether a pod is Ready."""
    conditions = pod["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def parsed(text: str | None) -> Json:
    """Return a JSON annotation's value; empty where there is none."""
    value: Json = json.loads(text or "{}")
    return value
