"""The programs of the node: their command lines and configuration files, in the order in which they start."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tools import binary
from tools.node import place as names
from tools.node.place import Place

Json = dict[str, object]
ETCD = "http://127.0.0.1:2379"


@dataclass(frozen=True)
class Component:
    """One program.

    Attributes:
        name: of the program, and of its log.
        command: what starts it.
        environment: variables besides the supervisor's own.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def etcd(place: Place) -> Component:
    """Return the store of the API server; it forgets everything with the node."""
    flags = ["--unsafe-no-fsync", f"--data-dir={place.run}/etcd", "--log-level=error"]
    return Component("etcd", [str(binary("etcd")), *flags])


def apiserver(place: Place) -> Component:
    """Return the API server: RBAC, all default admission, and service accounts."""
    keys = place.keys
    flags = [
        f"--etcd-servers={ETCD}",
        f"--secure-port={names.API_PORT}",
        f"--advertise-address={names.NODE_IP}",
        f"--tls-cert-file={keys}/tls.crt",
        f"--tls-private-key-file={keys}/tls.key",
        f"--token-auth-file={keys}/tokens.csv",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys}/sa.pub",
        f"--service-account-signing-key-file={keys}/tls.key",
        f"--service-cluster-ip-range={names.SERVICES}",
        "--authorization-mode=RBAC",
        "--allow-privileged=true",
        # Logs and exec go to the node's address; its name is known to nobody.
        "--kubelet-preferred-address-types=InternalIP",
        "--enable-priority-and-fairness=false",
    ]
    return Component("kube-apiserver", [str(binary("kube-apiserver")), *flags])


def controller_manager(place: Place) -> Component:
    """Return the controllers: jobs, stateful sets, endpoints, garbage collection and the like."""
    keys = place.keys
    flags = [
        f"--kubeconfig={_kubeconfig(place)}",
        f"--service-account-private-key-file={keys}/tls.key",
        f"--root-ca-file={keys}/ca.crt",
        "--allocate-node-cidrs",
        f"--cluster-cidr={names.PODS}",
        "--leader-elect=false",
        "--secure-port=0",
    ]
    return Component("kube-controller-manager", [str(binary("kube-controller-manager")), *flags])


def scheduler(place: Place) -> Component:
    """Return the scheduler."""
    flags = [f"--kubeconfig={_kubeconfig(place)}", "--leader-elect=false", "--secure-port=0"]
    return Component("kube-scheduler", [str(binary("kube-scheduler")), *flags])


def containerd(place: Place) -> Component:
    """Return the container runtime, with a bridge between the pods."""
    network: Json = {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": f"{place.run}/ipam",
                    "ranges": [[{"subnet": names.PODS.replace("/16", "/24")}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    (place.run / "cni").mkdir()
    (place.run / "cni" / "10-pods.conflist").write_text(json.dumps(network))
    (place.run / "containerd.toml").write_text(f'''version = 2
root = "{place.images}"
state = "{place.run}/containerd"
[grpc]
address = "{place.socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{names.BASE_IMAGE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{place.run}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
''')
    return Component("containerd", ["containerd", "--config", f"{place.run}/containerd.toml"])


def kubelet(place: Place) -> Component:
    """Return the kubelet. Its cgroups stand under one of the node's own, so that they can be swept."""
    settings: Json = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{place.cgroup}",
        "failSwapOn": False,
        "failCgroupV1": False,
        "containerRuntimeEndpoint": f"unix://{place.socket}",
        "clusterDNS": [names.NODE_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{place.run}/resolv.conf",
        "maxPods": 60,
        "serializeImagePulls": False,
        # A laptop's disk is fuller than a node's; nothing is evicted or collected for that.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
    }
    (place.run / "kubelet.yaml").write_text(yaml.safe_dump(settings))
    flags = [
        f"--config={place.run}/kubelet.yaml",
        f"--kubeconfig={_kubeconfig(place)}",
        f"--hostname-override={names.NAME}",
        f"--node-ip={names.NODE_IP}",
    ]
    return Component("kubelet", [str(binary("kubelet")), *flags])


def proxy(place: Place) -> Component:
    """Return what makes Services of iptables rules."""
    flags = [
        f"--kubeconfig={_kubeconfig(place)}",
        f"--hostname-override={names.NAME}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={names.PODS}",
        "--conntrack-max-per-core=0",
    ]
    return Component("kube-proxy", [str(binary("kube-proxy")), *flags])


def network_policies(place: Place) -> Component:
    """Return what makes NetworkPolicies of iptables rules; it does nothing else here."""
    flags = [
        f"--kubeconfig={_kubeconfig(place)}",
        f"--hostname-override={names.NAME}",
        "--run-firewall=true",
        "--run-router=false",
        "--run-service-proxy=false",
        f"--service-cluster-ip-range={names.SERVICES}",
        "--metrics-port=0",
        "--health-port=0",
    ]
    return Component("kube-router", [str(binary("kube-router")), *flags], {"NODE_NAME": names.NAME})


def coredns(place: Place) -> Component:
    """Return the name server of pods and node; it knows the cluster's names and no others."""
    (place.run / "Corefile").write_text(f""".:53 {{
  bind {names.NODE_IP}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {_kubeconfig(place)}
    ttl 5
  }}
}}
""")
    return Component("coredns", [str(binary("coredns")), "-conf", f"{place.run}/Corefile"])


def kuberay(place: Place) -> Component:
    """Return the KubeRay operator."""
    flags = [
        "-enable-leader-election=false",
        "-metrics-addr=127.0.0.1:18080",
        "-health-probe-bind-address=127.0.0.1:18082",
    ]
    flags += ["-reconcile-concurrency=4"]
    environment = {"KUBECONFIG": str(_kubeconfig(place))}
    return Component("kuberay-operator", [str(binary("kuberay-operator")), *flags], environment)


AGENTS: tuple[Callable[[Place], Component], ...] = (scheduler, kubelet, proxy, coredns)
"""What a node needs once API server and containerd answer."""


def _kubeconfig(place: Place) -> Path:
    return place.run / "inner.kubeconfig"
