"""A real control plane on loopback: etcd, kube-apiserver, kube-controller-manager and the KubeRay operator."""

import datetime
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import yaml
from cryptography.hazmat.primitives import serialization
from wan22_operator.certificates import current

import tools
from testing.control_plane.api import Api, Json, Refused
from testing.control_plane.processes import Process
from testing.control_plane.standin import Heads, Kubelet
from testing.ports import free_port
from testing.waiting import until

ADMIN_TOKEN = secrets.token_urlsafe(32)
CONTROLLERS = "serviceaccount-controller,endpointslice-controller,garbage-collector-controller,namespace-controller,"
CONTROLLERS += "job-controller"


class ControlPlane:
    """The processes of one control plane; ``stop`` ends them all."""

    def __init__(self, folder: Path, *, audit: bool = False) -> None:
        self.folder = folder
        self.processes: dict[str, Process] = {}
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.audit_log = folder / "audit.log"
        self._audit = audit
        self._apis: list[Api] = []
        self._write_keys()
        self.heads = Heads()

    def start(self) -> None:
        """Start everything, and return when KubeRay's types are served."""
        etcd, peers = free_port(), free_port()
        self._etcd = f"http://127.0.0.1:{etcd}"
        self._start(
            "etcd",
            [
                f"--data-dir={self.folder}/etcd",
                "--unsafe-no-fsync",
                "--log-level=error",
                f"--listen-client-urls={self._etcd}",
                f"--advertise-client-urls={self._etcd}",
                f"--listen-peer-urls=http://127.0.0.1:{peers}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
                f"--initial-cluster=default=http://127.0.0.1:{peers}",
            ],
        )
        self.start_apiserver()
        self.admin = self.api(ADMIN_TOKEN)
        self.wait_for_apiserver()
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._install_crd, tools.kuberay_crds()))
        self._start(
            "kube-controller-manager",
            [
                f"--kubeconfig={self.admin_kubeconfig}",
                f"--service-account-private-key-file={self.folder}/tls.key",
                f"--controllers={CONTROLLERS}",
                "--leader-elect=false",
                "--secure-port=0",
                "--concurrent-gc-syncs=5",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ],
        )
        self.start_kuberay()
        self.kubelet = Kubelet(self.api(ADMIN_TOKEN), self.heads)

    def start_apiserver(self) -> None:
        """Start kube-apiserver, on the same port each time."""
        flags = [
            f"--etcd-servers={self._etcd}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--authorization-mode=RBAC",
            f"--tls-cert-file={self.folder}/tls.crt",
            f"--tls-private-key-file={self.folder}/tls.key",
            f"--token-auth-file={self.folder}/tokens.csv",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder}/sa.pub",
            f"--service-account-signing-key-file={self.folder}/tls.key",
            "--enable-priority-and-fairness=false",
            "--allow-privileged=true",
            "--watch-cache=true",
        ]
        if self._audit:
            flags += [f"--audit-policy-file={self.folder}/audit.yaml", f"--audit-log-path={self.audit_log}"]
        self._start("kube-apiserver", flags)

    def wait_for_apiserver(self) -> None:
        """Return once the API server is ready."""

        def ready() -> bool:
            assert self.processes["kube-apiserver"].alive(), self.processes["kube-apiserver"].tail()
            try:
                return self.admin.http.get("/readyz").status_code == 200
            except httpx.HTTPError:
                return False

        until("kube-apiserver is ready", ready, 60)

    def start_kuberay(self) -> None:
        """Start the KubeRay operator; it reaches Ray heads through the stand-in."""
        self._start(
            "kuberay-operator",
            [
                f"-metrics-addr=127.0.0.1:{free_port()}",
                f"-health-probe-bind-address=127.0.0.1:{free_port()}",
                "-enable-leader-election=false",
                "-reconcile-concurrency=4",
            ],
            {"KUBECONFIG": str(self.admin_kubeconfig), "HTTP_PROXY": self.heads.url},
        )

    def stop(self) -> None:
        """End all processes and stand-ins."""
        if hasattr(self, "kubelet"):
            self.kubelet.stop()
        for api in self._apis:
            api.http.close()
        for process in reversed(self.processes.values()):
            process.kill()
        self.heads.stop()

    def kubeconfig(self, name: str, token: str) -> Path:
        """Write a kubeconfig for a token."""
        config: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self.folder / "ca.crt")}}
            ],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
            "current-context": "x",
        }
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    def token(self, namespace: str, account: str) -> str:
        """Return a token of a service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
        answer = self.admin.request("POST", path, body)
        return str(answer["status"]["token"])

    def user(self, namespace: str, account: str) -> Api:
        """Return the API server as a service account sees it."""
        return self.api(self.token(namespace, account))

    def api(self, token: str) -> Api:
        """Return the API server as the bearer of a token sees it."""
        self._apis.append(Api(self.url, token, str(self.folder / "ca.crt")))
        return self._apis[-1]

    def _start(self, name: str, flags: list[str], env: dict[str, str] | None = None) -> None:
        command: list[str | Path] = [tools.binary(name), *flags]
        self.processes[name] = Process(command, self.folder / f"{name}.log", env)

    def _write_keys(self) -> None:
        certificates = current(None, ["localhost", "127.0.0.1"], datetime.datetime.now(datetime.UTC))
        for name, text in (
            ("ca.crt", certificates.ca),
            ("tls.crt", certificates.server),
            ("tls.key", certificates.server_key),
        ):
            (self.folder / name).write_text(text)
        key = serialization.load_pem_private_key(certificates.server_key.encode(), None)
        encoding, shape = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        (self.folder / "sa.pub").write_bytes(key.public_key().public_bytes(encoding, shape))
        (self.folder / "tokens.csv").write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\n')
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": [{"level": "Metadata"}],
        }
        (self.folder / "audit.yaml").write_text(json.dumps(policy))
        self.admin_kubeconfig = self.kubeconfig("admin", ADMIN_TOKEN)

    def _install_crd(self, path: Path) -> None:
        body: Json = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self.admin.apply(body)

        def served() -> bool:
            spec = body["spec"]
            try:
                self.admin.request("GET", f"/apis/{spec['group']}/v1/{spec['names']['plural']}", limit="1")
            except Refused:
                return False
            return True

        until(f"{body['metadata']['name']} is served", served, 30)
