"""Which tools there are: the module each is built from, and which versions found elsewhere will do."""

from dataclasses import dataclass

KUBERNETES = "v1.34.4"


@dataclass(frozen=True)
class Tool:
    """One program.

    Attributes:
        name: file name of the program.
        group: folder beside this file whose go.mod and go.sum pin it.
        package: Go package that ``go build`` compiles.
        version: what the program must say for a copy found elsewhere to be taken, a regular expression.
        ask: arguments that make it print its version; None if it cannot, then no other copy is taken.
        ldflags: linker flags of the build.
    """

    name: str
    group: str
    package: str
    version: str = ""
    ask: tuple[str, ...] | None = ("--version",)
    ldflags: str = ""


def _kubernetes(name: str, version: str = r"v1\.34\.", ask: tuple[str, ...] = ("--version",)) -> Tool:
    ldflags = " ".join(
        f"-X k8s.io/{module}/version.{variable}={value}"
        for module in ("component-base", "client-go/pkg")
        for variable, value in (("gitVersion", KUBERNETES), ("gitMajor", "1"), ("gitMinor", "34"))
    )
    return Tool(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", version, ask, ldflags)


_helm_version = "-X helm.sh/helm/v4/internal/version.version=v4.3.1 -X helm.sh/helm/v4/internal/version.metadata="

CLUSTER = (
    Tool("etcd", "etcd", "go.etcd.io/etcd/server/v3", r"etcd Version: 3\.[6-9]"),
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kubectl", r"v1\.3[2-6]\.", ("version", "--client")),
    Tool("kuberay-operator", "kuberay", "github.com/ray-project/kuberay/ray-operator", ask=None),
    Tool("helm", "helm", "helm.sh/helm/v4/cmd/helm", r"^v4\.3\.", ("version", "--short"), _helm_version),
    Tool("helm-unittest", "helm-unittest", "github.com/helm-unittest/helm-unittest/cmd/helm-unittest", ask=None),
)
"""What a control plane without nodes and the chart's tests need."""

NODE = (
    _kubernetes("kube-scheduler"),
    _kubernetes("kubelet"),
    _kubernetes("kube-proxy"),
    Tool("coredns", "coredns", "github.com/coredns/coredns", r"CoreDNS-1\.1[2-9]", ("-version",)),
    Tool("kube-router", "kube-router", "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router", ask=None),
)
"""What a node with running pods needs besides."""

TOOLS = {tool.name: tool for tool in (*CLUSTER, *NODE)}
