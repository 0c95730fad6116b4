"""Starts the node inside its namespaces and watches it: when one program ends, so does the node, saying why."""

import argparse
import contextlib
import datetime
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from wan22_operator.certificates import current

from tools import binary, kuberay_crds
from tools.node import cgroups, components, forward, volumes
from tools.node import place as names
from tools.node.components import Component
from tools.node.place import Place

START_SECONDS = 180


class NodeError(RuntimeError):
    """The node cannot start or go on; the message names the program and quotes the end of its log."""


class Supervisor:
    """The programs of one node."""

    def __init__(self, place: Place, port: int) -> None:
        self.place, self.port = place, port
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start everything, and return when the node is ready for pods and KubeRay's types are served.

        Raises:
            NodeError: a program ended, or the node is not ready in time.
        """
        _network(self.place)
        _keys(self.place, self.port)
        self._run(components.etcd(self.place))
        self._run(components.apiserver(self.place))
        self._run(components.containerd(self.place))
        self._until("kube-apiserver is ready", lambda: _api_ready(self.place))
        self._run(components.controller_manager(self.place))
        with ThreadPoolExecutor() as pool:
            crds = pool.map(lambda crd: self._kubectl("apply", "--server-side", f"--filename={crd}"), kuberay_crds())
            self._until("containerd answers", lambda: self._ctr("version"))
            list(crds)
        cgroups.make(self.place.cgroup)
        for agent in components.AGENTS:
            self._run(agent(self.place))
        # KubeRay looks for a type that is not served yet only every ten seconds.
        self._until("KubeRay's types are served", self._types_served)
        self._run(components.kuberay(self.place))
        volumes.serve_in_background(self.place)
        self._until("the node is Ready", self._node_ready)
        # It ends where it finds no Node of its name.
        self._run(components.network_policies(self.place))
        gpus = f'{{"status": {{"capacity": {{"nvidia.com/gpu": "{names.GPUS}"}}}}}}'
        self._kubectl("patch", "node", names.NAME, "--subresource=status", "--type=merge", f"--patch={gpus}")

    def watch(self) -> None:
        """Return never, unless a program ends.

        Raises:
            NodeError: a program ended.
        """
        while True:
            self._check()
            time.sleep(0.5)

    def _run(self, component: Component) -> None:
        log = self.place.log / f"{component.name}.log"
        with log.open("ab") as output:
            self._running[component.name] = subprocess.Popen(
                component.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.place.run,
                env=os.environ | component.environment,
            )

    def _check(self) -> None:
        for name, process in self._running.items():
            if process.poll() is not None:
                log = self.place.log / f"{name}.log"
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise NodeError(f"{name} ended with status {process.returncode}; the end of {log}:\n{tail}")

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            self._check()
            if time.monotonic() > deadline:
                raise NodeError(f"not within {START_SECONDS} s: {what}; the logs are in {self.place.log}")
            time.sleep(0.1)

    def _kubectl(self, *arguments: str) -> str:
        command = [str(binary("kubectl")), f"--kubeconfig={self.place.run}/inner.kubeconfig", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NodeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def _ctr(self, *arguments: str) -> bool:
        command = ["ctr", f"--address={self.place.socket}", "--namespace=k8s.io", *arguments]
        return subprocess.run(command, capture_output=True).returncode == 0

    def _types_served(self) -> bool:
        served = self._kubectl("api-resources", "--api-group=ray.io", "--output=name").split()
        return len(served) == len(kuberay_crds())

    def _node_ready(self) -> bool:
        condition = '{range .items[*].status.conditions[?(@.type=="Ready")]}{.status}{end}'
        return self._kubectl("get", "nodes", f"--output=jsonpath={condition}") == "True"


def _network(place: Place) -> None:
    """Give the node its address, its own resolv.conf and hosts, and folders that are the machine's elsewhere."""
    (place.run / "resolv.conf").write_text(f"nameserver {names.NODE_IP}\n")
    (place.run / "hosts").write_text(f"127.0.0.1 localhost\n{names.NODE_IP} {names.NAME}\n")
    for source, target in (("resolv.conf", "/etc/resolv.conf"), ("hosts", "/etc/hosts")):
        _do("mount", "--bind", str(place.run / source), target)
    for folder in ("/var/log", "/var/lib/cni", "/var/lib/kubelet", "/run"):
        if not Path(folder).exists():
            Path(folder).mkdir(parents=True)
            with place.made.open("a") as made:
                made.write(f"{folder}\n")
    for folder in ("/var/log", "/var/lib/cni", "/run"):
        _do("mount", "-t", "tmpfs", "node", folder)
    (place.run / "kubelet").mkdir()
    _do("mount", "--bind", str(place.run / "kubelet"), "/var/lib/kubelet")
    # A veth pair, since not every kernel has dummy links. Its far end leads nowhere: no packet leaves the node.
    for command in (
        "ip link set lo up",
        "ip link add node0 type veth peer name nowhere",
        "ip link set nowhere up",
        f"ip address add {names.NODE_IP}/24 dev node0",
        "ip link set node0 up",
        "ip route add default dev node0",
        "sysctl -qw net.ipv4.ip_forward=1",
    ):
        _do(*command.split())
    # Without it, traffic between pods of one bridge would pass by NetworkPolicies.
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged.exists():
        bridged.write_text("1")


def _keys(place: Place, port: int) -> None:
    keys = place.keys
    keys.mkdir(mode=0o700)
    hosts = ["localhost", "127.0.0.1", names.NODE_IP, names.API_IP]
    hosts += ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    certificates = current(None, hosts, datetime.datetime.now(datetime.UTC))
    (keys / "ca.crt").write_text(certificates.ca)
    (keys / "tls.crt").write_text(certificates.server)
    (keys / "tls.key").write_text(certificates.server_key)
    key = serialization.load_pem_private_key(certificates.server_key.encode(), None)
    encoding, shape = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (keys / "sa.pub").write_bytes(key.public_key().public_bytes(encoding, shape))
    token = secrets.token_urlsafe(32)
    (keys / "admin-token").write_text(token)
    (keys / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    _write_kubeconfig(place.run / "inner.kubeconfig", names.API_PORT, certificates.ca, token)
    _write_kubeconfig(place.kubeconfig, port, certificates.ca, token)


def _write_kubeconfig(path: Path, port: int, ca: str, token: str) -> None:
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": _base64(ca)}
    path.touch(mode=0o600)
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "wan22-node", "cluster": cluster}],
                "users": [{"name": "admin", "user": {"token": token}}],
                "contexts": [{"name": "wan22-node", "context": {"cluster": "wan22-node", "user": "admin"}}],
                "current-context": "wan22-node",
            }
        )
    )


def _base64(text: str) -> str:
    import base64

    return base64.b64encode(text.encode()).decode()


def _api_ready(place: Place) -> bool:
    # The node's own loopback; the certificate is checked by those who come from outside.
    context = ssl._create_unverified_context()
    request = urllib.request.Request(
        f"https://127.0.0.1:{names.API_PORT}/readyz", headers={"Authorization": f"Bearer {place.admin_token}"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NodeError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextlib.contextmanager
def _reported(place: Place) -> Iterator[None]:
    """Leave the reason of a failure where ``up`` finds it."""
    try:
        yield
    except Exception as error:
        text = str(error) if isinstance(error, NodeError) else repr(error)
        (place.run / "failed").write_text(text)
        raise SystemExit(1) from error


def main() -> None:
    """Start the node and watch it until it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("listener", type=int, help="file descriptor of the listening socket")
    options = parser.parse_args()
    place = Place(options.root)
    listener = socket.socket(fileno=options.listener)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _reported(place):
        supervisor = Supervisor(place, listener.getsockname()[1])
        forward.serve_in_background(listener)
        supervisor.start()
        (place.run / "ready").touch()
        supervisor.watch()


if __name__ == "__main__":
    main()
