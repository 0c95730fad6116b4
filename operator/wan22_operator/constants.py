"""Names that the operator shares with the chart, with users and with KubeRay, each spelled once.

Those that serve_config needs too are its own, since it may not import the operator.
"""

from serve_config import names

# KubeRay's names.
GROUP = "ray.io"
VERSION = "v1"
RAY_SERVICE = "RayService"
RAY_CLUSTER = "RayCluster"
PLURALS = {RAY_SERVICE: "rayservices", RAY_CLUSTER: "rayclusters"}
CLUSTER_LABEL = "ray.io/cluster"
GROUP_LABEL = "ray.io/group"
NODE_TYPE_LABEL = "ray.io/node-type"
"""``head`` or ``worker``."""
DASHBOARD_PORT = 8265
SERVE_PORT = 8000
TOKEN_KEY = "auth_token"
"""Key of Ray's token in its Secret."""

# The chart's names.
WORKER_GROUP = names.WORKER_GROUP
OPERATOR = "wan22-operator"
"""Default name of the Lease and of the webhook configurations."""
WEBHOOK = "wan22-operator-webhook"
"""Default name of the webhooks' Service and of the Secret with their certificate."""

DIRECT = "wan22-operator-direct"
"""Field manager of what the operator writes into a spec because no webhook did."""

PREFIX = names.PREFIX
MANAGED = names.MANAGED
"""Label, "true" on the objects that the operator may change."""

OPERATED_BY = f"{PREFIX}operator"
"""Label, the name of the operator in the object's namespace that alone follows it; absent if any operator may."""

# Annotations that users and the chart write.
TOTAL_WORKERS = f"{PREFIX}total-workers"
GANGS = f"{PREFIX}gangs"
DECLARED = f"{PREFIX}declared"
"""The chart's values as JSON: the counts unless the user has annotated others."""
SERVE_CONFIG = f"{PREFIX}serve-config"
"""On a RayCluster: name of the ConfigMap whose key ``serveConfigV2`` the operator deploys."""
BUDGET = f"{PREFIX}disruption-budget"
"""Name of the PodDisruptionBudget of the worker pods, whose ``minAvailable`` the operator keeps."""
SERVE_CONFIG_KEY = names.SERVE_CONFIG_KEY

# Annotations that the operator writes.
ADOPTED = f"{PREFIX}adopted"
"""The counts that the spec held when the operator first saw the object, as JSON."""
ACTIVE_WORKERS = f"{PREFIX}active-workers"
ACTIVE_GANGS = f"{PREFIX}active-gangs"
ACTIVE_PODS = f"{PREFIX}active-pods"
WORKERS_TO_DELETE = f"{PREFIX}workers-to-delete"
"""On a RayCluster: JSON list of the pods that leave; they no longer count among its replicas."""
STATUS = f"{PREFIX}status"
