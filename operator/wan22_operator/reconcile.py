"""Reconciles one object: gathers its situation, decides the next step, takes it and reports."""

import asyncio
import datetime
import json
import logging
from contextlib import suppress
from dataclasses import replace
from time import monotonic

from kubernetes.aio.client import ApiException

from serve_config import ServeConfigError
from wan22_operator import admission, desired, metrics
from wan22_operator import constants as names
from wan22_operator.api_server import Json
from wan22_operator.desired import Active, BadCountError, Counts
from wan22_operator.json_patch import Patch
from wan22_operator.kube import ConflictError, Kube
from wan22_operator.object_cache import Key, ObjectCache, reconciled_as
from wan22_operator.observed import Cluster, Gang, Pod
from wan22_operator.off_loop import off_loop
from wan22_operator.ray_head import NoAnswerError, RayHead
from wan22_operator.reports import Recorder, Status
from wan22_operator.serve_deploy import deploy
from wan22_operator.settings import Settings
from wan22_operator.snapshots import Snapshot, names_in, whole_number
from wan22_operator.steps import (
    AUTOSCALED,
    SetActive,
    SetCluster,
    Settled,
    Situation,
    Step,
    Wait,
    next_step,
    pods_held,
    release,
)

log = logging.getLogger(__name__)

PATIENCE = 3
"""Reconciles in a row without an answer of the app before the status reports it."""

RETRIES = 2
"""How often a write is repeated at once if no webhook applied it: of two replicas, one may just have died."""
RETRY_SECONDS = 1.0

UNSEEN_SECONDS = 10.0
"""How long a growth waits until KubeRay has noted what somebody else changed."""

ASKED_COUNT = "the-operator-asks"
"""A count that the webhook must refuse, in a dry run."""

DIRECT = (
    "the webhooks did not apply the operator's annotations ({why}), so the operator wrote {fields} itself; "
    "a `helm upgrade` of these fields reports a conflict {until}"
)
"""Message of the Event WroteSpecDirectly."""


class NotAppliedError(RuntimeError):
    """No webhook applied the operator's annotations; they may do so soon."""


class Reconciler:
    """Reconciles objects.

    Between two reconciles it remembers only how often it has waited for an object, and since when webhooks are away.
    """

    def __init__(
        self, kube: Kube, ray_head: RayHead, cache: ObjectCache, recorder: Recorder, settings: Settings
    ) -> None:
        self._kube = kube
        self._ray_head = ray_head
        self._cache = cache
        self._recorder = recorder
        self._settings = settings
        self._waits: dict[Key, int] = {}
        self._away_since: float | None = None
        # The generation that KubeRay has not noted yet, and since when; minus infinity if the operator made it.
        self._unseen: dict[Key, tuple[int, float]] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Take the next step for an object; return the seconds until its next reconcile, None if it needs none."""
        obj = self._cache.get(key)
        if obj is None or not obj.managed or obj.deleting:
            self._waits.pop(key, None)
            self._unseen.pop(key, None)
            return None
        with metrics.RECONCILE_SECONDS.time():
            try:
                step = await self._take_next_step(obj)
            except ConflictError:
                metrics.RECONCILES.labels("conflict").inc()
                await self._refresh(obj)
                return 0.05
            except NotAppliedError as error:
                metrics.RECONCILES.labels("unapplied").inc()
                log.warning("%s %s/%s: %s", *obj.key, error)
                return RETRY_SECONDS
            except Exception as error:
                metrics.RECONCILES.labels("failed").inc()
                if await self._tell_failure(obj, error):
                    raise
                return None
        metrics.RECONCILES.labels(type(step).__name__.lower()).inc()
        return self._seconds_until_next(key, step)

    async def _take_next_step(self, obj: Snapshot) -> Step:
        problem = await off_loop(_unusable, obj)
        if problem:
            return await self._refuse(obj, problem)
        obj = await self._apply_annotations(await self._give_back(await self._adopt(obj)))
        active = desired.active(obj)
        assert active is not None
        assert obj.group is not None
        refused = ""
        try:
            wanted = desired.wanted(obj)
        except BadCountError as error:
            wanted, refused = active.counts, str(error)
        sized = await self._sized_cluster(obj)
        situation = await self._gather(obj, sized, wanted, active)
        step = next_step(situation)
        obj = await self._act(obj, sized, step)
        message = await self._deploy(obj, situation, step)
        await self._report(obj, situation, step, refused or message, bool(refused))
        await self._keep_budget(obj)
        released = await self._release(obj, sized)
        return released or step if isinstance(step, Settled) else step

    async def _release(self, obj: Snapshot, sized: Snapshot | None) -> Step | None:
        """Free surplus pods of the RayClusters that an upgrade replaces; return the last step that is not settled."""
        due: Step | None = None
        current = sized.name if sized else obj.pending_cluster or obj.active_cluster
        for old in self._cache.known(names.RAY_CLUSTER, obj.namespace):
            if reconciled_as(old) != obj.key or old.key == obj.key or old.name == current:
                continue
            if old.deleting or old.group is None or old.autoscaling or old.suspended:
                continue
            ranks_per_pod = old.group.ranks_per_pod
            old = await self._agreeing(old)
            cluster = await self._gangs_of(old)
            need = pods_held(cluster, ranks_per_pod)
            if need is None or (cluster.target <= need and not cluster.leaving):
                continue
            due = release(await self._with_pods(old, cluster, need), ranks_per_pod)
            await self._act(obj, old, due)
        return due

    def _is_unseen(self, obj: Snapshot) -> bool:
        """Return True if KubeRay may still replace the RayCluster because of what somebody else changed.

        KubeRay announces a new cluster in the same write in which it notes the generation. But it notes none while the
        head of the cluster does not answer, so the operator does not wait for it longer than ``UNSEEN_SECONDS``.
        """
        if obj.standalone or obj.pending_cluster or obj.observed_generation >= obj.generation:
            self._unseen.pop(obj.key, None)
            return False
        generation, since = self._unseen.get(obj.key, (0, 0.0))
        if generation != obj.generation:
            generation, since = self._unseen[obj.key] = obj.generation, monotonic()
        return monotonic() - since < UNSEEN_SECONDS

    async def _adopt(self, obj: Snapshot) -> Snapshot:
        """Annotate an object that the operator sees for the first time with the counts of its spec."""
        if desired.active(obj) is not None:
            return obj
        return await self._write(obj, dict(admission.annotations_at_adoption(obj, obj)))

    async def _apply_annotations(self, obj: Snapshot) -> Snapshot:
        """Make spec and annotations agree again after a webhook outage: any write makes the webhook do it."""
        changes: dict[str, str | None] = dict(admission.surplus_noted(obj))
        if not changes and not await off_loop(admission.drift, obj, obj):
            return obj
        return await self._write(obj, changes or {names.STATUS: obj.annotations.get(names.STATUS, "{}")})

    async def _gather(self, obj: Snapshot, snapshot: Snapshot | None, wanted: Counts, active: Active) -> Situation:
        assert obj.group is not None
        cluster = None
        if snapshot is not None:
            need = wanted.pods(obj.group.ranks_per_pod)
            cluster = await self._gangs_of(snapshot)
            # Pods and nodes are read only if the next step depends on them.
            if active != Active(wanted, need) or cluster.pods_set != need or cluster.leaving:
                cluster = await self._with_pods(snapshot, cluster, need)
        return Situation(
            wanted=wanted,
            active=active,
            ranks_per_pod=obj.group.ranks_per_pod,
            cluster=cluster,
            autoscaling=obj.autoscaling,
            suspended=obj.suspended or (snapshot is not None and snapshot.suspended),
            unseen=self._is_unseen(obj),
        )

    async def _sized_cluster(self, obj: Snapshot) -> Snapshot | None:
        """Return the RayCluster to size: a pending one, since KubeRay then configures only it, or the active one."""
        if obj.standalone:
            return obj
        name = obj.pending_cluster or obj.active_cluster
        if not name:
            return None
        found = self._cache.get((names.RAY_CLUSTER, obj.namespace, name))
        found = found or await self._kube.snapshot(names.RAY_CLUSTER, obj.namespace, name)
        if found is None or found.deleting or found.group is None:
            return None
        self._cache.put(found)
        return await self._agreeing(found)

    async def _agreeing(self, cluster: Snapshot) -> Snapshot:
        """Return a RayCluster whose spec is what the operator's annotations on it say.

        Its spec is compared each time: anybody may have edited it while no webhook judged that.
        """
        if desired.active(cluster) is None:
            return cluster  # the operator has not sized it yet
        changes: dict[str, str | None] = dict(admission.surplus_noted(cluster))
        if not changes and not admission.drift(cluster, cluster):
            return cluster
        log.info("RayCluster %s/%s was changed by somebody else", cluster.namespace, cluster.name)
        return await self._write_cluster(cluster, changes)

    async def _gangs_of(self, snapshot: Snapshot) -> Cluster:
        """Return the RayCluster's state without its pods and Ray nodes."""
        assert snapshot.group is not None
        annotated = whole_number(snapshot.annotations.get(names.ACTIVE_PODS))
        return Cluster(
            snapshot.name,
            annotated if annotated is not None else snapshot.group.pods_asked,
            names_in(snapshot.annotations.get(names.WORKERS_TO_DELETE)),
            gangs=await self._ray_head.gangs(snapshot),
            creation_fails=snapshot.creation_fails,
        )

    async def _with_pods(self, snapshot: Snapshot, bare: Cluster, need: int) -> Cluster:
        """Return the RayCluster's state with its pods and Ray nodes and, if it has more than it needs, its leaders."""
        own: list[Pod] = []
        others: list[Pod] = []
        for body in await self._kube.cluster_pods(snapshot.namespace, snapshot.name):
            group = (body["metadata"].get("labels") or {}).get(names.GROUP_LABEL)
            (own if group == names.WORKER_GROUP else others).append(_pod(body))
        leaders = await self._ray_head.leaders(snapshot) if bare.target > need else None
        nodes = await self._ray_head.nodes(snapshot)
        if nodes is not None:
            # With the host's network, pods of two groups may share an IP.
            nodes -= {pod.ip for pod in others} - {pod.ip for pod in own}
        return replace(bare, pods=tuple(own), nodes=nodes, leaders=leaders)

    async def _act(self, obj: Snapshot, cluster: Snapshot | None, step: Step) -> Snapshot:
        """Take a step. Its write fails if the object, or the RayCluster that was judged, has changed since."""
        if isinstance(step, SetActive):
            unseen = self._is_unseen(obj)
            obj = await self._write(obj, dict(admission.active_annotations(step.active)))
            if not unseen:
                # What the operator changes itself makes KubeRay replace nothing.
                self._unseen[obj.key] = obj.generation, float("-inf")
            message = f"active now: {step.active.counts}, {step.active.pods} worker pod(s)"
        elif isinstance(step, SetCluster):
            assert cluster is not None
            leaving = json.dumps(list(step.leaving)) if step.leaving else None
            changes = {names.ACTIVE_PODS: str(step.pods), names.WORKERS_TO_DELETE: leaving}
            written = await self._write_cluster(cluster, changes)
            obj = written if obj.standalone else obj
            victims = f"; leaving: {', '.join(step.leaving)}" if step.leaving else ""
            message = f"RayCluster {cluster.name}: {step.pods - len(step.leaving)} worker pod(s){victims}"
        else:
            return obj
        metrics.STEPS.labels(type(step).__name__).inc()
        log.info("%s %s/%s: %s", *obj.key, message)
        await self._recorder.record(obj, "Normal", "Resizing", message)
        return obj

    async def _write_cluster(self, cluster: Snapshot, changes: dict[str, str | None]) -> Snapshot:
        if cluster.standalone:
            return await self._write(cluster, changes)
        after = admission.annotated(cluster, changes)
        for key, count in ((names.ACTIVE_WORKERS, "1"), (names.ACTIVE_GANGS, "1")):
            if key not in after.annotations:
                changes[key] = count
        after = admission.annotated(cluster, changes)
        # Of a RayCluster that KubeRay made, no user or chart owns fields, so writing its spec causes no conflict.
        patch = admission.annotate(cluster, changes) + admission.drift(after, cluster)
        written = await self._kube.patch(cluster, patch)
        self._cache.put(written)
        return written

    async def _write(self, obj: Snapshot, changes: dict[str, str | None]) -> Snapshot:
        """Write annotations. The webhook applies them to the spec within the request.

        If it is switched off, or stays away, the spec is written too, as a field manager that gives its fields back.

        Raises:
            NotAppliedError: the webhooks are away, but not for long yet.
        """
        patch = admission.annotate(obj, changes)
        due = await off_loop(admission.drift, admission.annotated(obj, changes), obj)
        if not self._settings.webhook_enabled:
            written = await self._kube.patch(obj, patch + due, manager=names.DIRECT if due else "")
            self._cache.put(written)
            if due:
                await self._tell_direct(written, "they are switched off", "unless it has --force-conflicts")
            return written
        written = await self._kube.patch(obj, patch)
        for _ in range(RETRIES):
            if not await off_loop(admission.drift, written, obj):
                break
            await asyncio.sleep(RETRY_SECONDS)
            written = await self._kube.patch(written, [])  # changes nothing, but passes the webhooks
        self._cache.put(written)
        missing = await off_loop(admission.drift, written, obj)
        if missing:
            self._must_be_away_for_long()
            written = await self._kube.patch(written, missing, manager=names.DIRECT)
            self._cache.put(written)
            await self._tell_direct(written, "the API server did not reach them", "until they answer again")
        elif due:
            self._away_since = None
        return written

    def _must_be_away_for_long(self) -> None:
        now = monotonic()
        self._away_since = self._away_since if self._away_since is not None else now
        patience = self._settings.webhook_patience_seconds
        if now - self._away_since < patience:
            raise NotAppliedError(
                f"the API server does not reach the webhooks for {now - self._away_since:.0f} s; after {patience:g} s "
                "the operator writes the spec itself"
            )

    async def _tell_direct(self, obj: Snapshot, why: str, until: str) -> None:
        fields = "serveConfigV2 and the worker group" if obj.kind == names.RAY_SERVICE else "the worker group"
        message = DIRECT.format(why=why, fields=fields, until=until)
        await self._recorder.record(obj, "Warning", "WroteSpecDirectly", message)

    async def _give_back(self, obj: Snapshot) -> Snapshot:
        """Give up the fields that the operator wrote itself, once the webhooks answer, so that Helm may write them."""
        if obj.written_directly is None or not self._settings.webhook_enabled:
            return obj
        refusal = await self._kube.refusal(obj, admission.annotate(obj, {names.TOTAL_WORKERS: ASKED_COUNT}))
        if ASKED_COUNT not in refusal:
            return obj
        self._away_since = None
        patch: Patch = [{"op": "remove", "path": f"/metadata/managedFields/{obj.written_directly}"}]
        written = await self._kube.patch(obj, patch)
        self._cache.put(written)
        message = "the webhooks answer again; the operator owns no field of the spec any more"
        await self._recorder.record(written, "Normal", "GaveSpecBack", message)
        return written

    async def _keep_budget(self, obj: Snapshot) -> None:
        """Let a drain take one of the worker pods that the active counts need, however many these are.

        The chart writes the budget without ``minAvailable``. A budget cannot say this by ``maxUnavailable``, since a
        RayCluster has no scale subresource.
        """
        name, active = obj.annotations.get(names.BUDGET), desired.active(obj)
        if not name or active is None or obj.group is None:
            return
        path = f"/apis/policy/v1/namespaces/{obj.namespace}/poddisruptionbudgets/{name}"
        budget = await self._kube.get(path)
        least = active.counts.pods(obj.group.ranks_per_pod) - 1
        if budget is None:
            message = f"annotation {names.BUDGET}: there is no PodDisruptionBudget {name}; helm upgrade makes it"
            await self._recorder.record(obj, "Warning", "NoDisruptionBudget", message)
        elif (budget.get("spec") or {}).get("minAvailable") != least:
            await self._kube.request("PATCH", path, {"spec": {"minAvailable": least}}, patch="merge")

    async def _deploy(self, obj: Snapshot, situation: Situation, step: Step) -> str:
        """On a standalone RayCluster, deploy the Serve configuration; return why that failed, or an empty text."""
        if not obj.standalone or obj.suspended:
            return ""
        active = desired.active(obj)
        assert active is not None
        try:
            if await deploy(self._kube, self._ray_head, obj, active):
                await self._recorder.record(obj, "Normal", "ServeDeployed", f"Serve was sent {active.counts}")
        except NoAnswerError as error:
            return "" if isinstance(step, Wait) else str(error)
        except (LookupError, ServeConfigError, admission.RefusedError) as error:
            await self._recorder.record(obj, "Warning", "NoServeConfig", str(error))
            return str(error)
        return ""

    async def _report(self, obj: Snapshot, now: Situation, step: Step, message: str, refused: bool) -> None:
        silent = isinstance(step, Wait) and now.cluster is not None and now.cluster.gangs is None
        if silent and not refused and self._waits.get(obj.key, 0) < PATIENCE:
            return  # a single missing answer is not worth a report
        status = Status(
            phase="refused" if refused else _phase(now, step),
            wanted=now.wanted,
            have=_have(now.cluster.gangs if now.cluster else None),
            message=message or (step.message if isinstance(step, Wait | Settled) else ""),
        )
        await self._write_status(obj, status)
        if refused:
            await self._recorder.record(obj, "Warning", "BadCount", message)
        elif now.autoscaling:
            await self._recorder.record(obj, "Warning", "Autoscaling", AUTOSCALED)

    async def _refuse(self, obj: Snapshot, problem: str) -> Step:
        await self._write_status(obj, Status("refused", desired.found(obj), None, problem))
        await self._recorder.record(obj, "Warning", "NotUsable", problem)
        return Settled(problem)

    async def _tell_failure(self, obj: Snapshot, error: Exception) -> bool:
        """Report a look that failed, as far as the API server lets it; return False if the object is gone."""
        message = f"the operator's look failed: {_told(error)}"
        try:
            fresh = await self._kube.snapshot(obj.kind, obj.namespace, obj.name)
            if fresh is None:
                self._cache.remove(obj)
                return False
            await self._recorder.record(obj, "Warning", "LookFailed", message)
            wanted = (desired.active(fresh) or Active(Counts(desired.DEFAULT_WORKERS, 1), 1)).counts
            with suppress(BadCountError):
                wanted = desired.wanted(fresh)
            await self._write_status(fresh, Status("failing", wanted, None, message))
        except Exception as second:
            log.warning("%s %s/%s: its status cannot be written: %s", *obj.key, _told(second))
        return True

    async def _write_status(self, obj: Snapshot, status: Status) -> None:
        before = obj.annotations.get(names.STATUS)
        text = status.text(before, datetime.datetime.now(datetime.UTC))
        if before == text:
            return
        self._cache.put(await self._kube.patch(obj, admission.annotate(obj, {names.STATUS: text})))
        if status.phase == "ready" and before is not None:
            await self._recorder.record(obj, "Normal", "Resized", f"{status.wanted} ready")

    async def _refresh(self, obj: Snapshot) -> None:
        """Read an object, and the RayClusters that were made for it, again."""
        clusters = self._cache.known(names.RAY_CLUSTER, obj.namespace)
        made = [cluster for cluster in clusters if reconciled_as(cluster) == obj.key and cluster.key != obj.key]
        for known in (obj, *made):
            fresh = await self._kube.snapshot(*known.key)
            if fresh:
                self._cache.put(fresh)
            else:
                self._cache.remove(known)

    def _seconds_until_next(self, key: Key, step: Step) -> float:
        if isinstance(step, SetActive | SetCluster):
            self._waits.pop(key, None)
            return 0
        if isinstance(step, Settled):
            self._waits.pop(key, None)
            return self._settings.resync_seconds
        waits = self._waits[key] = self._waits.get(key, 0) + 1
        # A wait that lasts is polled more and more slowly, but never more slowly than a settled object.
        slower = float(2 ** max(0, min(waits - 30, 8)))
        return min(self._settings.resync_seconds, self._settings.poll_seconds * slower)


def _unusable(obj: Snapshot) -> str:
    """Return why the operator cannot size an object, with the remedy; empty if it can."""
    if obj.group is None:
        return f"there is no worker group {names.WORKER_GROUP}; give the group of the GPU pods this name"
    if obj.group.hosts != 1:
        return f"worker group {names.WORKER_GROUP}: numOfHosts is {obj.group.hosts}, allowed is 1: one pod is one host"
    if obj.standalone and names.SERVE_CONFIG in obj.annotations:
        return ""  # its serveConfigV2 is in a ConfigMap; the defaults need not fit its pods
    try:
        admission.configured(obj, desired.active(obj) or Active(desired.found(obj), 1))
    except admission.RefusedError as error:
        return str(error)
    except ServeConfigError as error:
        return f"spec.serveConfigV2: {error} (`python -m serve_config --check` checks a text)"
    return ""


def _told(error: Exception) -> str:
    """Return an error's message; for one of the API server, its status and reason."""
    if isinstance(error, ApiException):
        return f"the API server answered {error.status}: {str(error.reason)[:500]}"
    return (str(error) or repr(error))[:500]


def _phase(now: Situation, step: Step) -> str:
    if isinstance(step, Settled):
        return "suspended" if now.suspended else "ready"
    need = now.wanted.pods(now.ranks_per_pod)
    if isinstance(step, Wait) and now.active == Active(now.wanted, need):
        return "starting" if now.cluster is None or not now.cluster.gangs else "resizing"
    return "resizing"


def _have(gangs: tuple[Gang, ...] | None) -> Counts | None:
    return Counts(min((gang.have for gang in gangs), default=0), len(gangs)) if gangs is not None else None


def _pod(body: Json) -> Pod:
    status = body.get("status") or {}
    return Pod(
        name=body["metadata"]["name"],
        ip=status.get("podIP") or "",
        running=status.get("phase") == "Running",
        terminating=bool(body["metadata"].get("deletionTimestamp")),
    )
