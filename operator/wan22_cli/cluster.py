"""A release on a cluster, reached by kubectl: it knows every way to log in, and a plugin's user has it."""

import json
import re
import shutil
import subprocess
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from wan22_doctor.facts import Target, choose
from wan22_doctor.findings import NotSeenError
from wan22_operator import constants as names

from wan22_cli.output import Json
from wan22_cli.problems import Exit, Problem
from wan22_cli.service import UnreachableError

ANSWER_SECONDS = 30.0
"""How long kubectl may take for one answer."""
_LOG_LINE = re.compile(r"[IWE]\d{4} ")
FORWARD_SECONDS = 25.0
"""How long a port-forward may take until it has its port."""


class Kubectl:
    """kubectl with the user's namespace, context and kubeconfig."""

    def __init__(self, namespace: str | None, context: str | None, kubeconfig: str | None) -> None:
        program = shutil.which("kubectl")
        if program is None:
            raise Problem(Exit.REFUSED, "There is no kubectl on the PATH; install it.", "no_kubectl")
        self._command = [program]
        self._command += [f"--context={context}"] if context else []
        self._command += [f"--kubeconfig={kubeconfig}"] if kubeconfig else []
        self.namespace = namespace or self._namespace_of_context()
        self._command.append(f"--namespace={self.namespace}")

    def run(self, *arguments: str) -> str:
        """Return what kubectl prints.

        Raises:
            Problem: it fails, in its own words, or does not end in time.
        """
        try:
            done = subprocess.run(
                [*self._command, f"--request-timeout={ANSWER_SECONDS:g}s", *arguments],
                capture_output=True,
                text=True,
                timeout=ANSWER_SECONDS + 10,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            message = f"kubectl {arguments[0]} did not end within {ANSWER_SECONDS + 10:g} s; does kubectl version?"
            raise Problem(Exit.SILENT, message, "kubectl") from None
        if done.returncode == 0:
            return done.stdout
        # Its own log, which repeats the reason in other words, comes before the reason.
        lines = [line for line in done.stderr.splitlines() if not _LOG_LINE.match(line)]
        words = " ".join(lines).strip() or f"it ended with status {done.returncode}"
        # The API server refuses what a webhook or it itself finds wrong; everything else is about reaching it.
        refused = "denied the request" in words or "(Forbidden)" in words or "Invalid" in words
        raise Problem(Exit.REFUSED if refused else Exit.SILENT, f"kubectl {arguments[0]}: {words}", "kubectl")

    def get(self, *arguments: str) -> Json:
        """Return an object, or a list of objects."""
        found: Json = json.loads(self.run("get", *arguments, "--output=json"))
        return found

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start kubectl; what it says comes through one pipe."""
        return subprocess.Popen(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )

    def _namespace_of_context(self) -> str:
        try:
            return self.run("config", "view", "--minify", "--output=jsonpath={..namespace}").strip() or "default"
        except Problem as problem:
            message = f"{problem} Set KUBECONFIG, --kubeconfig or --context to those of a cluster."
            raise Problem(Exit.REFUSED, message, "kubeconfig") from None


@dataclass(frozen=True)
class Report:
    """What the operator writes about a release."""

    text: str
    """The annotation as it is; empty if there is none."""

    @property
    def value(self) -> Json:
        """The annotation's JSON; empty if there is none or it is damaged."""
        try:
            found = json.loads(self.text or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def phase(self) -> str:
        """What the operator does; empty if it has not reported."""
        return str(self.value.get("phase", ""))

    def reached(self, wanted: dict[str, int]) -> bool:
        """Return whether the release has the counts ``wanted``."""
        found = self.value.get("wanted")
        return self.phase == "ready" and isinstance(found, dict) and found == found | wanted

    def words(self) -> str:
        """Return the report as a line."""
        if not self.phase:
            return "the operator has not reported yet"
        wanted, have, message = (self.value.get(name) for name in ("wanted", "have", "message"))
        counts = _counts(wanted) if have == wanted else f"has {_counts(have)}, wanted {_counts(wanted)}"
        return f"{self.phase}: {counts}" + (f"; {message}" if message else "")


def _counts(value: Any) -> str:
    if not isinstance(value, dict):
        return "unknown counts"
    gangs, workers = value.get("gangs"), value.get("totalWorkers")
    return f"{gangs} gang{'' if gangs == 1 else 's'} of {workers} rank{'' if workers == 1 else 's'}"


class Release:
    """A RayService or RayCluster that runs the service."""

    def __init__(self, kubectl: Kubectl, name: str | None) -> None:
        self.kubectl = kubectl
        kinds = ",".join(f"{plural}.{names.GROUP}" for plural in names.PLURALS.values())
        bodies = kubectl.get(kinds)["items"]
        try:
            self.target = Target(choose(bodies, name or "", kubectl.namespace))
        except NotSeenError as error:
            message = f"{error}; {error.seen.remedy}".removesuffix("; ").replace("as an argument", "with --name")
            raise Problem(Exit.REFUSED, message, "no_release") from None

    def report(self) -> Report:
        """Return the operator's newest report."""
        body = self.kubectl.get(self.target.resource)
        return Report(str((body["metadata"].get("annotations") or {}).get(names.STATUS) or ""))

    def annotate(self, annotations: dict[str, int]) -> None:
        """Set annotations.

        Raises:
            Problem: the API server or the operator's webhook refuses them.
        """
        texts = [f"{name}={value}" for name, value in annotations.items()]
        self.kubectl.run("annotate", self.target.resource, "--overwrite", *texts)

    def forward(self) -> "PortForward":
        """Return an address of the service on this machine."""
        return PortForward(self.kubectl, self.target.api_service)


class PortForward:
    """A port of this machine that kubectl connects to a pod behind a Service; another pod's after each failure."""

    def __init__(self, kubectl: Kubectl, service: str) -> None:
        self._kubectl, self._service = kubectl, service
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._url = ""

    def url(self) -> str:
        """Return the URL; start kubectl first if it does not run.

        Raises:
            UnreachableError: it cannot connect, for example since no pod runs.
        """
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._url = self._start()
        return self._url

    def renew(self) -> None:
        """End kubectl, so that the next call takes a pod that runs."""
        self.close()

    def close(self) -> None:
        """End kubectl."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._reader is not None:
                self._reader.join()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = self._reader = None

    def _start(self) -> str:
        # The local port is kubectl's choice.
        arguments = (f"service/{self._service}", f":{names.SERVE_PORT}", "--address=127.0.0.1")
        self._process = process = self._kubectl.start("port-forward", *arguments)
        stop = threading.Timer(FORWARD_SECONDS, process.kill)
        stop.start()
        said = []
        try:
            for line in process.stdout or ():
                if line.startswith("Forwarding from "):
                    # It says a line for each connection, and its pipe must not fill up.
                    self._reader = threading.Thread(target=lambda: deque(process.stdout or (), maxlen=0), daemon=True)
                    self._reader.start()
                    return f"http://{line.split()[2]}"
                said.append(line.strip())
        finally:
            stop.cancel()
        words = " ".join(said) or f"it has no port after {FORWARD_SECONDS:g} s"
        raise UnreachableError(f"kubectl port-forward service/{self._service}: {words}")
