"""The operator, as ``kopf run -m wan22_operator.handlers`` runs it: watches feed a queue, one replica works it off.

Only event handlers are used: the others write bookkeeping annotations, which KubeRay copies, or finalizers, which
would hold a deletion up once the operator is gone.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import kopf
from prometheus_client import start_http_server

from wan22_operator import constants as names
from wan22_operator.gangs import Ray
from wan22_operator.kube import Kube
from wan22_operator.lease import Lease
from wan22_operator.reconcile import Reconciler
from wan22_operator.reports import Recorder
from wan22_operator.settings import Settings
from wan22_operator.snapshots import Snapshot, read
from wan22_operator.store import Store, reconciled_as
from wan22_operator.webhook import WebhookServer
from wan22_operator.work_queue import WorkQueue

log = logging.getLogger(__name__)


class Operator:
    """Everything that lives as long as the process."""

    def __init__(self, settings: Settings, kube: Kube) -> None:
        self.settings = settings
        self.kube = kube
        self.store = Store()
        self.ray = Ray(kube, settings.cluster_domain)
        self.recorder = Recorder(kube, "wan22-operator")
        reconciler = Reconciler(kube, self.ray, self.store, self.recorder, settings)
        self._look = reconciler.reconcile
        self.queue = WorkQueue(self._work)
        self.lease = Lease(
            kube,
            namespace=settings.pod_namespace,
            name=settings.lease_name,
            identity=settings.pod_name,
            seconds=settings.lease_seconds,
            changed=self._leading_changed,
        )
        self._leads = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start serving webhooks, and reconciling whenever this replica leads."""
        self._spawn(self.lease.run())
        self._spawn(self.queue.run())
        if self.settings.webhook_enabled:
            self._spawn(WebhookServer(self.kube, self.settings).run())

    async def stop(self) -> None:
        """End all tasks; the Lease is given back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.ray.close()
        await self.kube.close()

    def saw(self, obj: Snapshot, gone: bool) -> None:
        """Take note of an object's state, and have it looked at."""
        if gone:
            self.store.drop(obj)
            self.recorder.forget(obj)
        else:
            self.store.put(obj)
        key = reconciled_as(obj)
        if self._leads and self.store.get(key) is not None:
            self.queue.add(key)

    def healthy(self) -> str:
        """Return what the replica does; raise if a task of its ended, so that the pod is restarted."""
        for task in self._tasks:
            if task.done():
                raise RuntimeError(f"{task.get_coro()} ended: {task}")
        return "leading" if self.lease.leading else "standing by"

    async def _work(self, key: tuple[str, str, str]) -> float | None:
        if self.lease.leading:
            return await self._look(key)
        # A late renewal keeps writes back; it does not end the leadership yet, so the object stays in the queue.
        return self.settings.poll_seconds if self._leads else None

    def _leading_changed(self, leading: bool) -> None:
        self._leads = leading
        self.queue.clear()
        if leading:
            for key in self.store.to_look_at():
                self.queue.add(key)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))


operator: Operator | None = None


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Set kopf up as a watcher that never writes, and start the operator."""
    global operator
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = 300
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    own = Settings.read()
    operator = Operator(own, await Kube.connect())
    if own.metrics_port:
        start_http_server(own.metrics_port)
    operator.start()


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
    """Take note of a RayService."""
    assert operator is not None
    operator.saw(read(names.RAY_SERVICE, event["object"]), event["type"] == "DELETED")


@kopf.on.event(names.GROUP, names.VERSION, names.PLURALS[names.RAY_CLUSTER])
async def ray_cluster(event: kopf.RawEvent, **_: Any) -> None:
    """Take note of a RayCluster."""
    assert operator is not None
    operator.saw(read(names.RAY_CLUSTER, event["object"]), event["type"] == "DELETED")
