"""The operator's entry point: ``kopf run -m wan22_operator.handlers``. Watches feed a queue; the leader works it off.

Only kopf's event handlers are used. Its other handlers write bookkeeping annotations, which KubeRay would copy, or
finalizers, which would block deletions once the operator is gone.
"""

import asyncio
import logging
import signal
from collections.abc import Coroutine
from typing import Any

import kopf
from prometheus_client import start_http_server

from wan22_operator import constants as names
from wan22_operator.kube import Kube
from wan22_operator.lease import Lease
from wan22_operator.object_cache import ObjectCache, reconciled_as
from wan22_operator.ray_head import RayHead
from wan22_operator.reconcile import Reconciler
from wan22_operator.relist import Relist
from wan22_operator.reports import Recorder
from wan22_operator.settings import Settings
from wan22_operator.snapshots import Snapshot, read
from wan22_operator.webhook import WebhookServer
from wan22_operator.work_queue import WorkQueue

log = logging.getLogger(__name__)


class Operator:
    """All parts of one replica, for as long as its process lives."""

    def __init__(self, settings: Settings, kube: Kube) -> None:
        self.settings = settings
        self.kube = kube
        self.cache = ObjectCache(settings.follows)
        self.ray_head = RayHead(kube)
        self.recorder = Recorder(kube, names.OPERATOR)
        reconciler = Reconciler(kube, self.ray_head, self.cache, self.recorder, settings)
        self._reconcile = reconciler.reconcile
        self.queue = WorkQueue(self._work)
        self.lease = Lease(
            kube,
            namespace=settings.pod_namespace,
            name=settings.lease_name,
            identity=settings.pod_name,
            seconds=settings.lease_seconds,
            changed=self._leading_changed,
            hindrance=self._hindrance,
        )
        self.webhook = WebhookServer(kube, settings) if settings.webhook_enabled else None
        self.relist = Relist(
            kube,
            self.cache,
            namespaces=settings.namespaces,
            saw=self.saw,
            seconds=settings.relist_seconds,
            restart=lambda: signal.raise_signal(signal.SIGTERM),
        )
        self._leads = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start to serve webhooks and, whenever this replica leads, to reconcile."""
        await self.relist.start()
        self._spawn(self.relist.run())
        self._spawn(self.lease.run())
        self._spawn(self.queue.run())
        if self.webhook:
            self._spawn(self.webhook.run())

    async def stop(self) -> None:
        """End all tasks and release the Lease."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.ray_head.close()
        await self.kube.close()

    def saw(self, obj: Snapshot, gone: bool) -> None:
        """Remember an object's new state and, if this replica leads, have the object reconciled."""
        if gone:
            self.cache.remove(obj)
            self.recorder.forget(obj)
        else:
            self.cache.put(obj)
        key = reconciled_as(obj)
        if self._leads and self.cache.get(key) is not None:
            self.queue.add(key, first=True)

    def healthy(self) -> str:
        """Return the replica's role; raise if one of its tasks has ended, so that the pod is restarted."""
        for task in self._tasks:
            if task.done():
                raise RuntimeError(f"{task.get_coro()} ended: {task}")
        return "leading" if self.lease.leading else self._hindrance() or "standing by"

    async def _work(self, key: tuple[str, str, str]) -> float | None:
        if self.lease.leading:
            return await self._reconcile(key)
        # A late renewal forbids writes but does not end the leadership yet, so the object stays in the queue.
        return self.settings.poll_seconds if self._leads else None

    def _hindrance(self) -> str:
        """Return why this replica must not lead: it sees no objects, or its writes would pass no webhook of its own."""
        if self.webhook and not self.webhook.serving:
            return "its webhooks are not served yet"
        return self.relist.blind

    def _leading_changed(self, leading: bool) -> None:
        self._leads = leading
        self.queue.clear()
        if leading:
            for key in self.cache.to_reconcile():
                self.queue.add(key)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))


operator: Operator | None = None


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Configure kopf to watch and never write, and start the operator."""
    global operator
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = 300
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    own = Settings.read()
    operator = Operator(own, await Kube.connect())
    if own.metrics_port:
        start_http_server(own.metrics_port)
    await operator.start()


@kopf.on.cleanup()
async def stop(**_: Any) -> None:
    """Stop the operator."""
    if operator:
        await operator.stop()


@kopf.on.probe(id="operator")
def probe(**_: Any) -> str:
    """Answer the liveness probe."""
    return operator.healthy() if operator else "starting"


@kopf.on.event(names.GROUP, names.VERSION, names.PLURALS[names.RAY_SERVICE])
async def ray_service(event: kopf.RawEvent, **_: Any) -> None:
    """Handle a change of a RayService."""
    assert operator is not None
    operator.saw(read(names.RAY_SERVICE, event["object"]), event["type"] == "DELETED")


@kopf.on.event(names.GROUP, names.VERSION, names.PLURALS[names.RAY_CLUSTER])
async def ray_cluster(event: kopf.RawEvent, **_: Any) -> None:
    """Handle a change of a RayCluster."""
    assert operator is not None
    operator.saw(read(names.RAY_CLUSTER, event["object"]), event["type"] == "DELETED")
