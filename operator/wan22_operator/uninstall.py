"""``python -m wan22_operator.uninstall``: the chart's pre-delete hook, which deletes the Ray object.

It waits until the object is gone: KubeRay's clean-up of a cluster needs Redis and its Secret, so nothing else of the
release may be deleted before.
"""

import argparse
import asyncio
import sys
import time

from kubernetes.aio.client import ApiException

from wan22_operator import constants as names
from wan22_operator.kube import Kube, object_path

POLL_SECONDS = 1.0


async def uninstall(kube: Kube, kind: str, namespace: str, name: str, seconds: float) -> list[str]:
    """Delete an object in the foreground and wait for at most ``seconds``; return which objects then still exist."""
    deadline = time.monotonic() + seconds
    try:
        await kube.request("DELETE", object_path(kind, namespace, name), {"propagationPolicy": "Foreground"})
    except ApiException as error:
        if error.status != 404:
            raise
    while remaining := await _remaining(kube, kind, namespace, name):
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_SECONDS)
    return remaining


async def _remaining(kube: Kube, kind: str, namespace: str, name: str) -> list[str]:
    remaining = []
    if await kube.get(object_path(kind, namespace, name)):
        remaining.append(f"{kind} {namespace}/{name}")
    if kind == names.RAY_SERVICE:
        path = object_path(names.RAY_CLUSTER, namespace, "")
        clusters = (await kube.request("GET", path.rstrip("/"))).get("items", ())
        for cluster in clusters:
            owners = cluster["metadata"].get("ownerReferences") or ()
            if any(owner["kind"] == kind and owner["name"] == name for owner in owners):
                finalizers = ", ".join(cluster["metadata"].get("finalizers") or ()) or "none"
                remaining.append(f"RayCluster {namespace}/{cluster['metadata']['name']} (finalizers: {finalizers})")
    return remaining


async def _main(options: argparse.Namespace) -> int:
    kube = await Kube.connect()
    try:
        remaining = await uninstall(kube, options.kind, options.namespace, options.name, options.timeout)
    finally:
        await kube.close()
    if not remaining:
        print(f"{options.kind} {options.namespace}/{options.name} is gone")
        return 0
    print(
        f"after {options.timeout:g} s these objects still exist: {'; '.join(remaining)}. Is the KubeRay operator "
        "running? Once they are gone (or their finalizers removed), run the uninstall again.",
        file=sys.stderr,
    )
    return 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m wan22_operator.uninstall", description=__doc__)
    parser.add_argument("--kind", required=True, choices=sorted(names.PLURALS))
    parser.add_argument("--name", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--timeout", type=float, default=300, help="seconds to wait (default: 300)")
    return asyncio.run(_main(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
