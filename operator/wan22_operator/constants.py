"""Names that the operator shares with the chart, with users and with KubeRay, each spelled once.

Those that serve_config needs too are its own, since it may not import the operator.
"""

from serve_config import names

GROUP = "ray.io"
VERSION = "v1"
RAY_SERVICE = "RayService"
RAY_CLUSTER = "RayCluster"
PLURALS = {RAY_SERVICE: "rayservices", RAY_CLUSTER: "rayclusters"}
WORKER_GROUP = names.WORKER_GROUP

PREFIX = names.PREFIX
MANAGED = names.MANAGED
"""Label, "true" on the objects that the operator may touch."""

# What users and the chart ask for.
TOTAL_WORKERS = f"{PREFIX}total-workers"
GANGS = f"{PREFIX}gangs"
DECLARED = f"{PREFIX}declared"
"""The chart's values as JSON; counts where no annotation of the user's stands."""
SERVE_CONFIG = f"{PREFIX}serve-config"
"""On a RayCluster: name of the ConfigMap whose key ``serveConfigV2`` the operator deploys."""
SERVE_CONFIG_KEY = names.SERVE_CONFIG_KEY

# What the operator writes.
ADOPTED = f"{PREFIX}adopted"
"""The counts found in the spec at first sight, as JSON."""
ACTIVE_WORKERS = f"{PREFIX}active-workers"
ACTIVE_GANGS = f"{PREFIX}active-gangs"
ACTIVE_PODS = f"{PREFIX}active-pods"
WORKERS_TO_DELETE = f"{PREFIX}workers-to-delete"
"""On a RayCluster: JSON list of the pods that leave; they count no longer among its replicas."""
STATUS = f"{PREFIX}status"

# KubeRay's names.
CLUSTER_LABEL = "ray.io/cluster"
GROUP_LABEL = "ray.io/group"
DASHBOARD_PORT = 8265
SERVE_PORT = 8000
TOKEN_KEY = "auth_token"
