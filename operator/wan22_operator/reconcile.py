"""One look at one object: gather what is, decide the next step, take it, report."""

import json
import logging
from dataclasses import replace
from typing import Any

from wan22_operator import admission, desired, metrics
from wan22_operator import constants as names
from wan22_operator.desired import Active, BadCountError, Counts
from wan22_operator.gangs import NoAnswerError, Ray
from wan22_operator.kube import ConflictError, Kube
from wan22_operator.reports import Recorder, Status
from wan22_operator.serve_deploy import deploy
from wan22_operator.settings import Settings
from wan22_operator.snapshots import Snapshot, names_in
from wan22_operator.steps import (
    Cluster,
    Gang,
    Pod,
    SetActive,
    SetCluster,
    Settled,
    Situation,
    Step,
    Wait,
    next_step,
)
from wan22_operator.store import Key, Store

log = logging.getLogger(__name__)

PATIENCE = 3
"""Looks in a row without an answer of the app before the status says so."""

DIRECT = (
    "the webhooks did not apply the operator's annotations ({why}), so it wrote {fields} itself; "
    "a later `helm upgrade` of these fields may report a conflict"
)


class Reconciler:
    """Looks at objects. It remembers nothing between two looks but how long a wait has lasted."""

    def __init__(self, kube: Kube, ray: Ray, store: Store, recorder: Recorder, settings: Settings) -> None:
        self._kube = kube
        self._ray = ray
        self._store = store
        self._recorder = recorder
        self._settings = settings
        self._waits: dict[Key, int] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Take the next step for an object, and return in how many seconds to look again; None for never."""
        obj = self._store.get(key)
        if obj is None or not obj.managed or obj.deleting:
            self._waits.pop(key, None)
            return None
        with metrics.RECONCILE_SECONDS.time():
            try:
                step = await self._look(obj)
            except ConflictError:
                metrics.RECONCILES.labels("conflict").inc()
                await self._refresh(obj)
                return 0.05
        metrics.RECONCILES.labels(type(step).__name__.lower()).inc()
        return self._again(key, step)

    async def _look(self, obj: Snapshot) -> Step:
        problem = _unusable(obj)
        if problem:
            return await self._refuse(obj, problem)
        obj = await self._adopt(obj)
        active = desired.active(obj)
        assert active is not None
        assert obj.group is not None
        refused = ""
        try:
            wanted = desired.wanted(obj)
        except BadCountError as error:
            wanted, refused = active.counts, str(error)
        obj = await self._apply_annotations(obj)
        situation = await self._gather(obj, wanted, active)
        step = next_step(situation)
        obj = await self._act(obj, step)
        message = await self._deploy(obj, situation, step)
        await self._report(obj, situation, step, refused or message, bool(refused))
        return step

    async def _adopt(self, obj: Snapshot) -> Snapshot:
        """Give an object that was never seen the annotations that say what is active, as its spec has it."""
        if desired.active(obj) is not None:
            return obj
        return await self._write(obj, dict(admission.first_sight(obj, obj, created=False)))

    async def _apply_annotations(self, obj: Snapshot) -> Snapshot:
        """Bring a spec and its annotations together again where a webhook was away; any write of ours does."""
        if not admission.drift(obj, obj):
            return obj
        return await self._write(obj, {names.STATUS: obj.annotations.get(names.STATUS, "{}")})

    async def _gather(self, obj: Snapshot, wanted: Counts, active: Active) -> Situation:
        assert obj.group is not None
        snapshot = await self._sized_cluster(obj)
        cluster = await self._ask(snapshot, wanted, active, obj.group.ranks_per_pod) if snapshot else None
        return Situation(
            wanted=wanted,
            active=active,
            ranks_per_pod=obj.group.ranks_per_pod,
            cluster=cluster,
            autoscaling=obj.autoscaling,
            suspended=obj.suspended or (snapshot is not None and snapshot.suspended),
        )

    async def _sized_cluster(self, obj: Snapshot) -> Snapshot | None:
        """Return the RayCluster to size: the pending one while there is one, since only it is given serveConfigV2."""
        if obj.standalone:
            return obj
        name = obj.pending_cluster or obj.active_cluster
        if not name:
            return None
        found = self._store.get((names.RAY_CLUSTER, obj.namespace, name))
        found = found or await self._kube.snapshot(names.RAY_CLUSTER, obj.namespace, name)
        if found is None or found.deleting or found.group is None:
            return None
        self._store.put(found)
        return found

    async def _ask(self, snapshot: Snapshot, wanted: Counts, active: Active, ranks_per_pod: int) -> Cluster:
        """Return what the RayCluster is; its pods and Ray nodes are asked for only where a step depends on them."""
        assert snapshot.group is not None
        need = wanted.pods(ranks_per_pod)
        told = _whole(snapshot.annotations.get(names.ACTIVE_PODS))
        leaving = names_in(snapshot.annotations.get(names.WORKERS_TO_DELETE))
        bare = Cluster(
            snapshot.name,
            told if told is not None else snapshot.group.replicas or 0,
            leaving,
            gangs=await self._ray.gangs(snapshot),
        )
        if active == Active(wanted, need) and bare.pods_set == need and not leaving:
            return bare
        pods = await self._kube.worker_pods(snapshot.namespace, snapshot.name) if leaving or bare.target > need else []
        return replace(bare, pods=tuple(map(_pod, pods)), nodes=await self._ray.nodes(snapshot))

    async def _act(self, obj: Snapshot, step: Step) -> Snapshot:
        if isinstance(step, SetActive):
            obj = await self._write(obj, dict(admission.active_annotations(step.active)))
            said = f"active now: {step.active.counts}, {step.active.pods} worker pod(s)"
        elif isinstance(step, SetCluster):
            cluster = await self._sized_cluster(obj)
            assert cluster is not None
            leaving = json.dumps(list(step.leaving)) if step.leaving else None
            changes = {names.ACTIVE_PODS: str(step.pods), names.WORKERS_TO_DELETE: leaving}
            written = await self._write_cluster(cluster, changes)
            obj = written if obj.standalone else obj
            going = f"; leaving: {', '.join(step.leaving)}" if step.leaving else ""
            said = f"RayCluster {cluster.name}: {step.pods - len(step.leaving)} worker pod(s){going}"
        else:
            return obj
        metrics.STEPS.labels(type(step).__name__).inc()
        log.info("%s %s/%s: %s", *obj.key, said)
        await self._recorder.say(obj, "Normal", "Resizing", said)
        return obj

    async def _write_cluster(self, cluster: Snapshot, changes: dict[str, str | None]) -> Snapshot:
        if cluster.standalone:
            return await self._write(cluster, changes)
        after = admission.annotated(cluster, changes)
        for key, count in ((names.ACTIVE_WORKERS, "1"), (names.ACTIVE_GANGS, "1")):
            if key not in after.annotations:
                changes[key] = count
        after = admission.annotated(cluster, changes)
        # KubeRay is the author of a RayCluster it made, and nobody's field manager minds a write from here.
        patch = admission.annotate(cluster, changes) + admission.drift(after, cluster)
        written = await self._kube.patch(cluster, patch)
        self._store.put(written)
        return written

    async def _write(self, obj: Snapshot, changes: dict[str, str | None]) -> Snapshot:
        """Write annotations; the webhook applies them to the spec within the request, or this does it directly."""
        patch = admission.annotate(obj, changes)
        why = ""
        if not self._settings.webhook_enabled:
            direct = admission.drift(admission.annotated(obj, changes), obj)
            patch, why = patch + direct, "they are switched off" if direct else ""
        written = await self._kube.patch(obj, patch)
        direct = admission.drift(written, obj)
        if direct:
            written = await self._kube.patch(written, direct)
            why = "the API server did not reach them"
        self._store.put(written)
        if why:
            fields = "serveConfigV2 and the worker group" if obj.kind == names.RAY_SERVICE else "the worker group"
            await self._recorder.say(written, "Warning", "WroteSpecDirectly", DIRECT.format(why=why, fields=fields))
        return written

    async def _deploy(self, obj: Snapshot, situation: Situation, step: Step) -> str:
        """On a RayCluster of its own, give Serve its configuration; return what stands in the way."""
        if not obj.standalone or obj.suspended:
            return ""
        active = desired.active(obj)
        assert active is not None
        try:
            if await deploy(self._kube, self._ray, obj, active):
                await self._recorder.say(obj, "Normal", "ServeDeployed", f"Serve was given {active.counts}")
        except NoAnswerError as error:
            return "" if isinstance(step, Wait) else str(error)
        except LookupError as error:
            await self._recorder.say(obj, "Warning", "NoServeConfig", str(error))
            return str(error)
        return ""

    async def _report(self, obj: Snapshot, now: Situation, step: Step, message: str, refused: bool) -> None:
        silent = isinstance(step, Wait) and now.cluster is not None and now.cluster.gangs is None
        if silent and not refused and self._waits.get(obj.key, 0) < PATIENCE:
            return  # one answer that did not come in time is no news
        status = Status(
            phase="refused" if refused else _phase(now, step),
            wanted=now.wanted,
            have=_have(now.cluster.gangs if now.cluster else None),
            message=message or (step.message if isinstance(step, Wait | Settled) else ""),
        )
        await self._write_status(obj, status)
        if refused:
            await self._recorder.say(obj, "Warning", "BadCount", message)
        elif isinstance(step, Settled) and now.autoscaling:
            await self._recorder.say(obj, "Warning", "Autoscaling", step.message)

    async def _refuse(self, obj: Snapshot, problem: str) -> Step:
        await self._write_status(obj, Status("refused", desired.found(obj), None, problem))
        await self._recorder.say(obj, "Warning", "NotUsable", problem)
        return Settled(problem)

    async def _write_status(self, obj: Snapshot, status: Status) -> None:
        before = obj.annotations.get(names.STATUS)
        if before == status.text():
            return
        self._store.put(await self._kube.patch(obj, admission.annotate(obj, {names.STATUS: status.text()})))
        if status.phase == "ready" and before is not None:
            await self._recorder.say(obj, "Normal", "Resized", f"{status.wanted} ready")

    async def _refresh(self, obj: Snapshot) -> None:
        """Read an object, and the RayCluster that is sized, anew."""
        for kind, name in (
            (obj.kind, obj.name),
            (names.RAY_CLUSTER, obj.pending_cluster or obj.active_cluster),
        ):
            fresh = await self._kube.snapshot(kind, obj.namespace, name) if name else None
            if fresh:
                self._store.put(fresh)

    def _again(self, key: Key, step: Step) -> float:
        if isinstance(step, SetActive | SetCluster):
            self._waits.pop(key, None)
            return 0
        if isinstance(step, Settled):
            self._waits.pop(key, None)
            return self._settings.resync_seconds
        waits = self._waits[key] = self._waits.get(key, 0) + 1
        slower = float(2 ** max(0, min(waits - 30, 8)))
        return min(self._settings.resync_seconds, self._settings.poll_seconds * slower)


def _unusable(obj: Snapshot) -> str:
    """Return why the operator cannot size an object; empty if it can."""
    if obj.group is None:
        return f"there is no worker group {names.WORKER_GROUP}; name the group of the GPU pods so"
    if obj.group.hosts != 1:
        return f"worker group {names.WORKER_GROUP}: numOfHosts is {obj.group.hosts}, allowed is 1; one pod is one host"
    if not desired.readable(obj):
        return "spec.serveConfigV2 is not readable or has no application wan22; see `python -m serve_config --check`"
    if not obj.serve_config:
        try:
            admission.configured(obj, Active(desired.found(obj), 1))
        except admission.RefusedError as error:
            return str(error)
    return ""


def _phase(now: Situation, step: Step) -> str:
    if isinstance(step, Settled):
        return "suspended" if now.suspended else "ready"
    need = now.wanted.pods(now.ranks_per_pod)
    if isinstance(step, Wait) and now.active == Active(now.wanted, need):
        return "starting" if now.cluster is None or not now.cluster.gangs else "resizing"
    return "resizing"


def _have(gangs: tuple[Gang, ...] | None) -> Counts | None:
    return Counts(min((gang.have for gang in gangs), default=0), len(gangs)) if gangs is not None else None


def _pod(body: dict[str, Any]) -> Pod:
    status = body.get("status") or {}
    return Pod(
        name=body["metadata"]["name"],
        ip=status.get("podIP") or "",
        running=status.get("phase") == "Running",
        terminating=bool(body["metadata"].get("deletionTimestamp")),
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
