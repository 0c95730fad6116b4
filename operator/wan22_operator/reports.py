"""What users read: the annotation ``wan22.dev/status`` and Events."""

import datetime
import hashlib
import json
import logging
from dataclasses import dataclass

from kubernetes.aio.client import ApiException

from wan22_operator import constants as names
from wan22_operator.desired import Counts
from wan22_operator.kube import Kube
from wan22_operator.snapshots import Snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """Where an object stands."""

    phase: str
    """``ready``, ``starting``, ``resizing``, ``suspended`` or ``refused``."""
    wanted: Counts
    have: Counts | None
    message: str = ""

    def text(self) -> str:
        """Return the annotation's value."""
        value = {
            "phase": self.phase,
            "wanted": _counts(self.wanted),
            "have": _counts(self.have) if self.have else None,
            "message": self.message,
        }
        return json.dumps(value, separators=(",", ":"))


class Recorder:
    """Writes Events, each message once per object while this process lives."""

    def __init__(self, kube: Kube, component: str) -> None:
        self._kube = kube
        self._component = component
        self._said: dict[tuple[str, str], str] = {}

    async def say(self, obj: Snapshot, kind: str, reason: str, message: str) -> None:
        """Write an Event of ``kind`` "Normal" or "Warning", unless it was the last one of its reason on this object."""
        if self._said.get((obj.uid, reason)) == message:
            return
        self._said[(obj.uid, reason)] = message
        now = datetime.datetime.now(datetime.UTC)
        stamp = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        unique = hashlib.sha256(f"{obj.uid}{reason}{message}{now.timestamp()}".encode()).hexdigest()[:12]
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{obj.name[:200]}.{unique}", "namespace": obj.namespace},
            "involvedObject": {
                "apiVersion": f"{names.GROUP}/{names.VERSION}",
                "kind": obj.kind,
                "namespace": obj.namespace,
                "name": obj.name,
                "uid": obj.uid,
                "resourceVersion": obj.resource_version,
            },
            "type": kind,
            "reason": reason,
            "message": message[:1000],
            "source": {"component": self._component},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            await self._kube.request("POST", f"/api/v1/namespaces/{obj.namespace}/events", event)
        except ApiException as error:
            log.warning("event %s on %s/%s: %s", reason, obj.namespace, obj.name, error.reason)

    def forget(self, obj: Snapshot) -> None:
        """Drop what was said about an object that is gone."""
        self._said = {key: value for key, value in self._said.items() if key[0] != obj.uid}


def _counts(counts: Counts) -> dict[str, int]:
    return {"totalWorkers": counts.total_workers, "gangs": counts.gangs}
