"""Where the node keeps its files, and the addresses that exist inside it alone."""

from dataclasses import dataclass
from pathlib import Path

from tools.find import cache

NAME = "node0"
NODE_IP = "192.168.77.2"
PODS = "10.244.0.0/16"
SERVICES = "10.96.0.0/16"
API_IP = "10.96.0.1"
API_PORT = 6443
BASE_IMAGE = "localhost/wan22-base:e2e"
"""Pause image of the pods and base of the images that are built here."""
GPUS = 16
"""GPUs that the node says it has (``nvidia.com/gpu``); none of them exists, so ranks compute on CPU."""


@dataclass(frozen=True)
class Place:
    """Folders of the node.

    Attributes:
        root: holds everything.
        run: what belongs to one life of the node; removed with it.
        images: containerd's store of images, which outlives the node, since unpacking them takes a minute.
    """

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def images(self) -> Path:
        return self.root / "containerd"

    @property
    def log(self) -> Path:
        return self.run / "log"

    @property
    def kubeconfig(self) -> Path:
        return self.run / "kubeconfig"

    @property
    def socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def made(self) -> Path:
        """Lists the folders outside of ``root`` that were made to be covered by the node's own."""
        return self.run / "made"

    @property
    def keys(self) -> Path:
        """Keys, certificates and tokens, which root alone may read."""
        return self.run / "keys"

    @property
    def admin_token(self) -> str:
        """The administrator's token, made at random for one life of the node."""
        return (self.keys / "admin-token").read_text()

    @property
    def cgroup(self) -> str:
        """Name of the node's folder in the control group hierarchies."""
        return f"wan22-{self.root.name}"

    @property
    def volumes(self) -> Path:
        """Folder for hostPath volumes of pods; any user may write in its folders."""
        return self.run / "volumes"


def default() -> Place:
    """Return the place that all clones on this machine share."""
    return Place(cache().parent / "node")
