"""Elects the replica that reconciles: it holds a Lease, which another replica takes over when it is not renewed.

Why not ``kubernetes.aio.leaderelection`` (kubernetes 37): it measures with the wall clock, which may jump; it writes
times that are not RFC 3339; it does not release the Lease when it stops, so that the next leader waits for the Lease to
expire; and its ``run`` ends for good when the leadership is lost.
"""

import asyncio
import datetime
import logging
from collections.abc import Callable
from time import monotonic

from wan22_operator import metrics
from wan22_operator.api_server import Json
from wan22_operator.kube import ConflictError, Kube

log = logging.getLogger(__name__)


class Lease:
    """Takes the Lease when its holder has not renewed it for its whole duration, and renews it from then on.

    Times that other replicas wrote are never read, since clocks differ: a Lease has expired if this replica has seen it
    unchanged, by its own monotonic clock, for the Lease's duration.

    Args:
        identity: this replica's name; it must be unique among the replicas.
        seconds: the Lease's duration, in whole seconds, as a Lease holds it.
        changed: called with True when this replica becomes the leader and with False when it no longer is.
        hindrance: returns why this replica must not lead now, and an empty text if it may.
    """

    def __init__(
        self,
        kube: Kube,
        *,
        namespace: str,
        name: str,
        identity: str,
        seconds: int,
        changed: Callable[[bool], None],
        hindrance: Callable[[], str] = lambda: "",
    ) -> None:
        self._kube = kube
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name, self._identity, self._seconds = name, identity, seconds
        self._changed = changed
        self._hindrance = hindrance
        # The spec as last read, and the monotonic time at which it was first read so.
        self._seen: tuple[object, float] = (None, 0.0)
        # The monotonic time before the last successful renewal was sent.
        self._renewed = float("-inf")
        self._led = False

    @property
    def leading(self) -> bool:
        """True if this replica may write: it holds the Lease, and no other replica can regard it as expired yet."""
        return monotonic() - self._renewed < self._seconds * 0.7

    async def run(self) -> None:
        """Take or renew the Lease until cancelled, then release it."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._seconds / 2):
                        await self._follow()
                except Exception as error:
                    log.warning("lease %s: %s", self._name, error or repr(error))
                self._notify()
                await asyncio.sleep(self._seconds / 5)
        finally:
            if self.leading:
                self._renewed = float("-inf")
                await asyncio.wait_for(self._release(), 2)

    async def _follow(self) -> None:
        """Take or renew the Lease if this replica may lead, else leave it to another."""
        if not (why := self._hindrance()):
            await self.take_or_renew()
        elif self.leading:
            log.warning("lease %s: %s gives it up: %s", self._name, self._identity, why)
            self._renewed = float("-inf")
            await self._release()

    def _notify(self) -> None:
        if self.leading != self._led:
            self._led = self.leading
            metrics.LEADING.set(self._led)
            log.info("lease %s: %s %s", self._name, self._identity, "leads" if self._led else "no longer leads")
            self._changed(self._led)

    async def take_or_renew(self) -> None:
        """Renew the Lease if this replica holds it; take it if nobody does or if it has expired.

        Raises:
            ConflictError: another replica wrote the Lease first.
        """
        began = monotonic()
        lease = await self._kube.get(f"{self._path}/{self._name}")
        if lease is None:
            body = {"metadata": {"name": self._name}, "spec": self._spec({})}
            await self._kube.request(
                "POST", self._path, body | {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1"}
            )
            self._renewed = began
            return
        spec = lease.get("spec") or {}
        if spec != self._seen[0]:
            self._seen = (spec, began)
        holder = spec.get("holderIdentity")
        expired = began - self._seen[1] >= float(spec.get("leaseDurationSeconds") or 0)
        if holder in (None, "", self._identity) or expired:
            await self._put(lease, self._spec(spec))
            self._renewed = began

    async def _put(self, lease: Json, spec: Json) -> None:
        try:
            await self._kube.request("PUT", f"{self._path}/{self._name}", lease | {"spec": spec})
        except ConflictError:
            raise ConflictError("another replica wrote the Lease first") from None

    def _spec(self, before: Json) -> Json:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        ours = before.get("holderIdentity") == self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._seconds,
            "acquireTime": before.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if ours else 1),
        }

    async def _release(self) -> None:
        lease = await self._kube.get(f"{self._path}/{self._name}")
        if lease and (lease.get("spec") or {}).get("holderIdentity") == self._identity:
            await self._put(lease, lease["spec"] | {"holderIdentity": ""})
