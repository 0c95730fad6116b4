"""The node's volumes: a folder for every claim, made for its first pod and removed when the claim is gone.

It stands in for a storage driver, and talks to the API server as one does: claims of the default StorageClass wait for
this provisioner, and so do the volumes that they leave behind.
"""

import json
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tools.node.place import API_PORT, Place

Json = dict[str, Any]
PROVISIONER = "wan22.dev/folder"
CLASS: Json = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "folder", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": PROVISIONER,
    "reclaimPolicy": "Delete",
    # The scheduler then asks again and again until the claim is bound. With Immediate it waits to be told, and looks in
    # a cache that may be told later (1.34): once, a pod stayed Pending for four minutes.
    "volumeBindingMode": "WaitForFirstConsumer",
}
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
EVERY_SECONDS = 0.5


def serve_in_background(place: Place) -> None:
    """Make the StorageClass, and follow claims and volumes until the process ends."""
    _request(place, "POST", "/apis/storage.k8s.io/v1/storageclasses", CLASS)
    threading.Thread(target=_serve, args=(place,), daemon=True, name="volumes").start()


def _serve(place: Place) -> None:
    while True:
        try:
            for claim in _request(place, "GET", "/api/v1/persistentvolumeclaims")["items"]:
                _provide(place, claim)
            for volume in _request(place, "GET", "/api/v1/persistentvolumes")["items"]:
                _reclaim(place, volume)
        # The API server may be busy, or an answer broken off; the next round looks again.
        except (OSError, HTTPException, ValueError) as error:
            print(f"volumes: {error!r}", flush=True)
        time.sleep(EVERY_SECONDS)


def _provide(place: Place, claim: Json) -> None:
    meta, spec = claim["metadata"], claim["spec"]
    pending = claim["status"].get("phase") == "Pending" and not spec.get("volumeName")
    wanted = pending and SELECTED_NODE in meta.get("annotations", {}) and "deletionTimestamp" not in meta
    if not wanted or spec.get("storageClassName") != CLASS["metadata"]["name"]:
        return
    name = f"pvc-{meta['uid']}"
    folder = place.volumes / name
    folder.mkdir(exist_ok=True)
    # Pods run as users of their own, and a folder of the host knows no fsGroup.
    folder.chmod(0o777)
    volume: Json = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "accessModes": spec["accessModes"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                **{key: meta[key] for key in ("namespace", "name", "uid")},
            },
            "hostPath": {"path": str(folder), "type": "Directory"},
            "persistentVolumeReclaimPolicy": CLASS["reclaimPolicy"],
            "storageClassName": spec["storageClassName"],
        },
    }
    _request(place, "POST", "/api/v1/persistentvolumes", volume)


def _reclaim(place: Place, volume: Json) -> None:
    meta, spec = volume["metadata"], volume["spec"]
    ours = meta.get("annotations", {}).get(PROVISIONED_BY) == PROVISIONER
    if not ours or volume["status"].get("phase") != "Released" or spec["persistentVolumeReclaimPolicy"] != "Delete":
        return
    _request(place, "DELETE", f"/api/v1/persistentvolumes/{meta['name']}")
    shutil.rmtree(Path(spec["hostPath"]["path"]), ignore_errors=True)


def _request(place: Place, verb: str, path: str, body: Json | None = None) -> Json:
    request = urllib.request.Request(
        f"https://127.0.0.1:{API_PORT}{path}",
        method=verb,
        data=json.dumps(body).encode() if body else None,
        headers={"Authorization": f"Bearer {place.admin_token}", "Content-Type": "application/json"},
    )
    # The node's own loopback; the certificate is checked by those who come from outside.
    context = ssl._create_unverified_context()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=10) as answer:
            found: Json = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        # Made a moment ago, or gone already: what was wanted.
        if error.code in (404, 409):
            return {}
        raise
