"""The programs of other projects that this one builds, tests and packages with: pinned, built once, shared by clones.

``tools.binary(name)`` finds one for a test; ``python -m tools build`` (``make tools``) builds those that are missing.
"""

from tools.catalog import CLUSTER, NODE, Tool
from tools.find import MissingToolError, binary, kuberay_crds

__all__ = ["CLUSTER", "NODE", "MissingToolError", "Tool", "binary", "kuberay_crds"]
