"""The check of KubeRay: its types and its operator."""

import re
from collections.abc import Iterator

from wan22_operator import constants as names

from wan22_doctor.facts import Json, KubeRay, name_of
from wan22_doctor.findings import Finding, NotSeen, failed, ok, warning

OLDEST = (1, 5, 1)
"""The first version with ``authOptions``, by which the dashboard asks for a token."""
INSTALL = "install KubeRay 1.5.1 or newer with its CRDs: helm install kuberay-operator kuberay/kuberay-operator"


def kuberay(found: KubeRay) -> Iterator[Finding]:
    """Judge the CRDs and, if it can be seen, the operator's Deployment; it may run outside the cluster."""
    if missing := set(names.PLURALS.values()) - found.served:
        yield failed(f"ray.io/v1 has no {' and no '.join(sorted(missing))}: KubeRay's CRDs are not installed", INSTALL)
        return
    known = isinstance(found.fields, NotSeen) or "authOptions" in found.fields
    if not known:
        yield failed(
            "the CRD rayservices.ray.io has no authOptions, so a token is dropped silently: the CRDs are older "
            "than 1.5.1",
            "apply the CRDs of the KubeRay version that runs (Helm never upgrades them): kubectl apply --server-side",
        )
    served = f"CRDs of ray.io/v1 ({', '.join(sorted(found.served))})"
    if isinstance(found.deployments, NotSeen) or not found.deployments:
        yield ok(f"{served}; no Deployment of its operator is visible here, so it is judged by its results")
        return
    for deployment in found.deployments:
        yield _operator(deployment, served)


def _operator(deployment: Json, served: str) -> Finding:
    name, space = name_of(deployment), deployment["metadata"]["namespace"]
    image = str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])
    available = int((deployment.get("status") or {}).get("availableReplicas") or 0)
    if not available:
        conditions = (deployment.get("status") or {}).get("conditions") or ()
        why = next((one["message"] for one in conditions if one.get("status") == "False" and one.get("message")), "")
        return failed(
            f"Deployment {space}/{name} ({image}) has no available pod{f': {why}' if why else ''}",
            f"kubectl -n {space} describe pods -l app.kubernetes.io/name=kuberay-operator",
        )
    number = re.search(r":v?(\d+)\.(\d+)\.(\d+)", image)
    if number and tuple(map(int, number.groups())) < OLDEST:
        return warning(
            f"KubeRay {'.'.join(number.groups())} runs ({space}/{name}); it does not support token authentication",
            INSTALL,
        )
    version = ".".join(number.groups()) if number else image
    return ok(f"KubeRay {version} runs ({space}/{name}); {served}")
