"""A test's own view of the API server."""

import json
import ssl
from typing import Any

import httpx

Json = dict[str, Any]


class Refused(AssertionError):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Api:
    """Requests as one user."""

    def __init__(self, url: str, token: str = "", ca: str | None = None) -> None:
        self.url, self.token = url, token
        verify = ssl.create_default_context(cafile=ca) if ca else True
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(base_url=url, headers=headers, verify=verify, timeout=30, trust_env=False)

    def request(self, verb: str, path: str, body: object = None, kind: str = "json", **query: str) -> Json:
        """Send one request and return its answer."""
        headers = {"Content-Type": f"application/{kind}"}
        content = json.dumps(body).encode() if body is not None else None
        response = self.http.request(verb, path, content=content, headers=headers, params=query)
        if response.status_code >= 400:
            raise Refused(response.status_code, _message(response))
        value: Json = response.json()
        return value

    def get(self, path: str, **query: str) -> Json | None:
        """Return an object, None where there is none."""
        try:
            return self.request("GET", path, **query)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def apply(self, body: Json, manager: str = "test", force: bool = True, **query: str) -> Json:
        """Apply an object server-side, as ``kubectl apply --server-side`` does."""
        query |= {"fieldManager": manager, "force": str(force).lower()}
        return self.request("PATCH", path_of(body), body, "apply-patch+yaml", **query)

    def merge(self, path: str, body: Json) -> Json:
        """Merge into an object, as ``kubectl annotate`` does."""
        return self.request("PATCH", path, body, "merge-patch+json")

    def delete(self, path: str) -> None:
        """Delete an object."""
        self.request("DELETE", path)


PLURALS = {
    "RayService": "apis/ray.io/v1/{}rayservices",
    "RayCluster": "apis/ray.io/v1/{}rayclusters",
    "ServiceAccount": "api/v1/{}serviceaccounts",
    "Secret": "api/v1/{}secrets",
    "Service": "api/v1/{}services",
    "ConfigMap": "api/v1/{}configmaps",
    "Deployment": "apis/apps/v1/{}deployments",
    "Lease": "apis/coordination.k8s.io/v1/{}leases",
    "NetworkPolicy": "apis/networking.k8s.io/v1/{}networkpolicies",
    "PodDisruptionBudget": "apis/policy/v1/{}poddisruptionbudgets",
    "Role": "apis/rbac.authorization.k8s.io/v1/{}roles",
    "RoleBinding": "apis/rbac.authorization.k8s.io/v1/{}rolebindings",
    "ClusterRole": "apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "MutatingWebhookConfiguration": "apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    "CustomResourceDefinition": "apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}


def path_of(body: Json) -> str:
    """Return the API path of an object."""
    meta = body["metadata"]
    space = f"namespaces/{meta['namespace']}/" if "namespace" in meta else ""
    return "/" + PLURALS[body["kind"]].format(space) + "/" + str(meta["name"])


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json().get("message", response.text))
    except ValueError:
        return response.text
