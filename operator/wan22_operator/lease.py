"""Which replica reconciles: the holder of a Lease, which another takes over when it is not renewed."""

import asyncio
import datetime
import logging
import time
from collections.abc import Callable

from wan22_operator import metrics
from wan22_operator.kube import ConflictError, Json, Kube

log = logging.getLogger(__name__)


class Lease:
    """Renews the Lease while it is ours, and takes it when its holder has not renewed it for its whole duration.

    Only this replica's own clock is read: what counts is how long a Lease looks the same to us.
    """

    def __init__(
        self, kube: Kube, *, namespace: str, name: str, identity: str, seconds: float, changed: Callable[[bool], None]
    ) -> None:
        self._kube = kube
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name, self._identity, self._seconds = name, identity, seconds
        self._changed = changed
        self._seen: tuple[object, float] = (None, 0.0)
        self._renewed = float("-inf")
        self._led = False

    @property
    def leading(self) -> bool:
        """Whether this replica may write: it holds the Lease, and nobody else can think that it lapsed."""
        return time.monotonic() - self._renewed < self._seconds * 0.7

    async def run(self) -> None:
        """Keep at it until cancelled; then give the Lease back."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._seconds / 2):
                        await self._try()
                except Exception as error:
                    log.warning("lease %s: %s", self._name, error or repr(error))
                self._tell()
                await asyncio.sleep(self._seconds / 5)
        finally:
            if self.leading:
                self._renewed = float("-inf")
                await asyncio.wait_for(self._give_back(), 2)

    def _tell(self) -> None:
        if self.leading != self._led:
            self._led = self.leading
            metrics.LEADING.set(self._led)
            log.info("lease %s: %s %s", self._name, self._identity, "leads" if self._led else "no longer leads")
            self._changed(self._led)

    async def _try(self) -> None:
        began = time.monotonic()
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
        lapsed = began - self._seen[1] >= float(spec.get("leaseDurationSeconds") or 0)
        if holder in (None, "", self._identity) or lapsed:
            await self._put(lease, self._spec(spec))
            self._renewed = began

    async def _put(self, lease: Json, spec: Json) -> None:
        try:
            await self._kube.request("PUT", f"{self._path}/{self._name}", lease | {"spec": spec})
        except ConflictError:
            raise ConflictError("another replica wrote it first") from None

    def _spec(self, before: Json) -> Json:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        ours = before.get("holderIdentity") == self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._seconds),
            "acquireTime": before.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if ours else 1),
        }

    async def _give_back(self) -> None:
        lease = await self._kube.get(f"{self._path}/{self._name}")
        if lease and (lease.get("spec") or {}).get("holderIdentity") == self._identity:
            await self._put(lease, lease["spec"] | {"holderIdentity": ""})
