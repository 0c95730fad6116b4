"""Reports to users: the annotation ``wan22.dev/status`` and Events."""

import datetime
import hashlib
import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import aiohttp
from kubernetes.aio.client import ApiException

from wan22_operator import constants as names
from wan22_operator.desired import Counts
from wan22_operator.kube import ConflictError, Kube
from wan22_operator.snapshots import Snapshot

REPEAT_SECONDS = 1800.0
"""When an Event is written again although nothing changed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """The value of the status annotation."""

    phase: str
    """``ready``, ``starting``, ``resizing``, ``suspended``, ``refused``, or ``failing`` if the last look failed."""
    wanted: Counts
    have: Counts | None
    """Ranks of the smallest gang, and the number of gangs; None if the app does not answer."""
    message: str = ""
    """Why the phase is not "ready"; empty if there is nothing to add."""

    def text(self, before: str | None, now: datetime.datetime) -> str:
        """Return the annotation's text, as JSON.

        ``since`` is the time at which the phase, or what is wanted, was first reported so; ``before`` is the text until
        now. So it tells how long a resize takes, whatever the messages are meanwhile.
        """
        since = _stamp(now)
        with suppress(ValueError, TypeError, KeyError):
            old = json.loads(before or "{}")
            if (old["phase"], old["wanted"]) == (self.phase, _counts(self.wanted)):
                since = str(old["since"])
        value = {
            "phase": self.phase,
            "wanted": _counts(self.wanted),
            "have": _counts(self.have) if self.have else None,
            "message": self.message,
            "since": since,
        }
        return json.dumps(value, separators=(",", ":"))


class Recorder:
    """Writes Events. A message is written again after another one of its reason on the same object, or after a while.

    The API server forgets Events after an hour, whatever is still wrong then.
    """

    def __init__(self, kube: Kube, component: str) -> None:
        self._kube = kube
        self._component = component
        # The last message about an object by its reason, and the monotonic time at which it was written.
        self._last: dict[tuple[str, str], tuple[str, float]] = {}

    async def record(self, obj: Snapshot, kind: str, reason: str, message: str) -> None:
        """Write an Event of ``kind`` "Normal" or "Warning", unless the last one of its reason said the same lately.

        An Event that the API server refuses is logged; it must not stop a reconcile.
        """
        last, written = self._last.get((obj.uid, reason), ("", 0.0))
        if last == message and monotonic() - written < REPEAT_SECONDS:
            return
        now = datetime.datetime.now(datetime.UTC)
        stamp = _stamp(now)
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
        except (ApiException, ConflictError, aiohttp.ClientError, TimeoutError) as error:
            why = error.reason if isinstance(error, ApiException) else error or repr(error)
            log.warning("event %s on %s/%s: %s", reason, obj.namespace, obj.name, why)
        else:
            self._last[(obj.uid, reason)] = message, monotonic()

    def forget(self, obj: Snapshot) -> None:
        """Forget the messages about an object that was deleted."""
        self._last = {key: value for key, value in self._last.items() if key[0] != obj.uid}


def _stamp(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _counts(counts: Counts) -> dict[str, int]:
    return {"totalWorkers": counts.total_workers, "gangs": counts.gangs}
