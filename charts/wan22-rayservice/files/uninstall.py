"""Delete the Ray object before anything else of the release. Run by the chart's pre-delete hook.

It waits until the object is gone: KubeRay's clean-up of a cluster needs Redis and its Secret, so nothing else of the
release may be deleted before. It needs nothing but Python, since it runs in whichever image the release has.
"""

import argparse
import http.client
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

POLL_SECONDS = 1.0
ANSWER_SECONDS = 10.0
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PLURALS = {"RayService": "rayservices", "RayCluster": "rayclusters"}


class Api:
    """The API server: API_SERVER, or the one of the pod, with the pod's token."""

    def __init__(self) -> None:
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        own = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        self._url = os.environ.get("API_SERVER", own)
        self._token = Path(os.environ.get("TOKEN_FILE", ACCOUNT / "token")).read_text(encoding="utf-8").strip()
        authority = os.environ.get("CA_FILE", str(ACCOUNT / "ca.crt"))
        context = ssl.create_default_context(cafile=authority) if self._url.startswith("https:") else None
        handlers = [urllib.request.HTTPSHandler(context=context)] if context else []
        # No proxy: the API server is near.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), *handlers)

    def request(self, verb: str, path: str, body: object = None) -> dict[str, Any] | None:
        """Return the JSON object of an answer; None if there is no such object."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=verb)
        try:
            with self._opener.open(request, timeout=ANSWER_SECONDS) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise


def remaining(api: Api, kind: str, namespace: str, name: str) -> list[str]:
    """Return which of the object and the RayClusters that it owns still exist."""
    base = f"/apis/ray.io/v1/namespaces/{namespace}"
    found = []
    if api.request("GET", f"{base}/{PLURALS[kind]}/{name}"):
        found.append(f"{kind} {namespace}/{name}")
    if kind == "RayService":
        for cluster in (api.request("GET", f"{base}/rayclusters") or {}).get("items", ()):
            owners = cluster["metadata"].get("ownerReferences") or ()
            if any(owner["kind"] == kind and owner["name"] == name for owner in owners):
                finalizers = ", ".join(cluster["metadata"].get("finalizers") or ()) or "none"
                found.append(f"RayCluster {namespace}/{cluster['metadata']['name']} (finalizers: {finalizers})")
    return found


def uninstall(api: Api, kind: str, namespace: str, name: str, seconds: float) -> str | None:
    """Delete an object in the foreground and wait for at most ``seconds``; return what went wrong, or None."""
    deadline = time.monotonic() + seconds
    path = f"/apis/ray.io/v1/namespaces/{namespace}/{PLURALS[kind]}/{name}"
    deleted = False
    while True:
        try:
            if not deleted:
                api.request("DELETE", path, {"propagationPolicy": "Foreground"})
                deleted = True
            left = remaining(api, kind, namespace, name)
            if not left:
                return None
            state = f"these objects still exist: {'; '.join(left)}. Is the KubeRay operator running?"
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                return f"the API server refuses ({error.code}): {error.read().decode(errors='replace')[:500]}"
            state = f"the API server answers {error.code}."
        except (OSError, http.client.HTTPException, ValueError) as error:
            state = f"the API server does not answer: {error}."
        if time.monotonic() > deadline:
            return (
                f"after {seconds:g} s (uninstall.timeoutSeconds) {state} Once they are gone (or their finalizers "
                "removed), run the uninstall again."
            )
        time.sleep(POLL_SECONDS)


def main(arguments: list[str] | None = None) -> str | None:
    """Run the command line; return what went wrong, or None."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", required=True, choices=sorted(PLURALS))
    parser.add_argument("--name", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--timeout", type=float, default=240, help="seconds to wait (default: 240)")
    options = parser.parse_args(arguments)
    problem = uninstall(Api(), options.kind, options.namespace, options.name, options.timeout)
    if problem is None:
        print(f"{options.kind} {options.namespace}/{options.name} is gone")
    return problem


if __name__ == "__main__":
    sys.exit(main())
