"""Gathers all facts concurrently: first the objects and, once they are known, the answers of programs in their pods."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from wan22_operator import constants as names
from wan22_operator.snapshots import read

from serve_config import check_serve_config
from wan22_doctor import facts
from wan22_doctor.checks.operator import DRY_RUNS
from wan22_doctor.cluster import Cluster
from wan22_doctor.facts import Facts, Json, KubeRay, Operator, Target, Webhook
from wan22_doctor.findings import Cause, NotSeen, NotSeenError, Seen

T = TypeVar("T")

PROGRAM_SECONDS = 8.0
"""How long a program in a pod may take, except the request."""
SMALL = {"prompt": "a lighthouse at dusk", "width": 256, "height": 256, "num_frames": 5, "num_inference_steps": 2}
"""Body of the request: small for every model."""
WEBHOOK_TRIES = DRY_RUNS
"""How many dry runs are made; all of them must be refused."""
REFUSED_COUNT = "the-doctor-asks"
"""A count that the webhook must refuse."""
_RAY = f"/apis/{names.GROUP}/{names.VERSION}"
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    name: str = ""
    """Name of the RayService or RayCluster; empty for the only one."""
    request: bool = True
    """Whether to submit one small task."""
    timeout: float = 120
    """Seconds that the task may take."""


async def gather(cluster: Cluster, options: Options, tell: Callable[[str], None]) -> Facts:
    """Gather all facts; ``tell`` is called with the names of those that are still missing.

    Raises:
        CannotRunError: the API server does not answer, or the namespace does not exist.
    """
    kubernetes = await cluster.version()
    await cluster.must_have_namespace()
    seen = await _Gathering(cluster, options).all(tell)
    return Facts(namespace=cluster.namespace, now=cluster.now, kubernetes=kubernetes, **seen)


class _Gathering:
    """One round. Each fact is a task, which awaits the tasks of the facts that it needs."""

    def __init__(self, cluster: Cluster, options: Options) -> None:
        self._cluster = cluster
        self._options = options
        self._space = f"/api/v1/namespaces/{cluster.namespace}"
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def all(self, tell: Callable[[str], None]) -> dict[str, Any]:
        sources: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "kuberay": self._kuberay,
            "target": self._target,
            "pods": lambda: self._cluster.items(f"{self._space}/pods"),
            "events": lambda: self._cluster.items(f"{self._space}/events", fieldSelector="type=Warning"),
            "serve_config": self._serve_config,
            "endpoints": self._endpoints,
            "deployment": self._deployment,
            "operator": self._operator,
            "webhook": self._webhook,
            "head": self._head,
            "application": self._application,
            "workers": self._workers,
            "request": self._request,
        }
        for name, source in sources.items():
            self._tasks[name] = asyncio.create_task(_seen(source()))
        pending = set(self._tasks.values())
        try:
            while pending:
                tell(", ".join(name for name, task in self._tasks.items() if not task.done()))
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            return {name: task.result() for name, task in self._tasks.items() if name != "deployment"}
        finally:
            for task in pending:
                task.cancel()

    async def _known(self, name: str) -> Any:
        """Return another fact.

        Raises:
            NotSeenError: it is missing, and so the fact that needs it is missing too.
        """
        value = await self._tasks[name]
        if isinstance(value, NotSeen):
            raise NotSeenError(value.behind())
        return value

    # KubeRay and its objects

    async def _kuberay(self) -> KubeRay:
        resources = await self._cluster.get(_RAY)
        served = frozenset(str(one["name"]) for one in (resources or {}).get("resources", ()) if "/" not in one["name"])
        crd = (
            f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.PLURALS[names.RAY_SERVICE]}.{names.GROUP}"
        )
        selector = "app.kubernetes.io/name=kuberay-operator"
        fields, deployments = await asyncio.gather(
            _seen(self._crd_fields(crd)),
            _seen(self._cluster.items("/apis/apps/v1/deployments", labelSelector=selector)),
        )
        return KubeRay(served, fields, deployments)

    async def _crd_fields(self, path: str) -> frozenset[str]:
        crd = await self._cluster.get(path)
        versions = {version["name"]: version for version in (crd or {}).get("spec", {}).get("versions", ())}
        try:
            spec = versions[names.VERSION]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            return frozenset(spec["rayClusterConfig"]["properties"])
        except KeyError:
            return frozenset()

    async def _target(self) -> Target:
        kuberay: KubeRay = await self._known("kuberay")
        if missing := set(names.PLURALS.values()) - kuberay.served:
            raise NotSeenError(NotSeen(f"the cluster has no type {' and no type '.join(sorted(missing))}"))
        base = f"{_RAY}/namespaces/{self._cluster.namespace}"
        services, clusters = await asyncio.gather(
            self._cluster.items(f"{base}/{names.PLURALS[names.RAY_SERVICE]}"),
            self._cluster.items(f"{base}/{names.PLURALS[names.RAY_CLUSTER]}"),
        )
        # The API server leaves the kind out of a list's items.
        bodies = [body | {"kind": names.RAY_SERVICE} for body in services]
        bodies += [body | {"kind": names.RAY_CLUSTER} for body in clusters]
        body = facts.choose(bodies, self._options.name, self._cluster.namespace)
        if body["kind"] == names.RAY_CLUSTER:
            return Target(body, (body,))
        own = facts.name_of(body)
        return Target(body, tuple(one for one in clusters if read(names.RAY_CLUSTER, one).owner == own))

    async def _serve_config(self) -> str:
        target: Target = await self._known("target")
        if target.obj.kind == names.RAY_SERVICE:
            if target.obj.serve_config:
                return target.obj.serve_config
            why = "spec.serveConfigV2 is absent, and no webhook filled it in when the object was written"
            remedy = (
                f"see the check of the webhook; once it answers: kubectl annotate {target.resource} {names.STATUS}-"
            )
            raise NotSeenError(NotSeen(why, remedy, Cause.FAULT))
        name = target.obj.annotations.get(names.SERVE_CONFIG)
        if not name:
            raise NotSeenError(NotSeen(f"this RayCluster has no annotation {names.SERVE_CONFIG}", "", Cause.OFF))
        found = await self._cluster.get(f"{self._space}/configmaps/{name}")
        text = str(((found or {}).get("data") or {}).get(names.SERVE_CONFIG_KEY) or "")
        if not text:
            why = f"annotation {names.SERVE_CONFIG}: no ConfigMap {name} with the key {names.SERVE_CONFIG_KEY}"
            raise NotSeenError(NotSeen(why, "create it, or correct the annotation", Cause.FAULT))
        return text

    async def _endpoints(self) -> int:
        target: Target = await self._known("target")
        if target.serving is None:
            raise NotSeenError(NotSeen("KubeRay has not made a RayCluster"))
        return await self._ready_endpoints(self._cluster.namespace, target.api_service)

    async def _ready_endpoints(self, namespace: str, service: str) -> int:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        slices = await self._cluster.items(path, labelSelector=f"kubernetes.io/service-name={service}")
        ready = {
            address
            for one in slices
            for endpoint in one.get("endpoints") or ()
            if (endpoint.get("conditions") or {}).get("ready") is not False
            for address in endpoint.get("addresses") or ()
        }
        return len(ready)

    # This project's operator

    async def _deployment(self) -> Json:
        selector = {"labelSelector": "app.kubernetes.io/component=operator,app.kubernetes.io/name=wan22-rayservice"}
        namespace = self._cluster.namespace
        target = await self._tasks["target"]
        named = "" if isinstance(target, NotSeen) else target.obj.operator
        own = await self._cluster.items(f"/apis/apps/v1/namespaces/{namespace}/deployments", **selector)
        found = [one for one in own if follows(one, namespace, named)]
        if named and not found:
            why = f"the label {names.OPERATED_BY} names the operator {named}, which does not exist in {namespace}"
            remedy = f"kubectl label {target.resource} {names.OPERATED_BY}-, so that any operator follows it"
            raise NotSeenError(NotSeen(why, remedy, Cause.FAULT))
        if not found:
            # An operator that follows this namespace too may run in one that this user may not read.
            everywhere = await _seen(self._cluster.items("/apis/apps/v1/deployments", **selector))
            elsewhere = () if isinstance(everywhere, NotSeen) else everywhere
            found = [one for one in elsewhere if follows(one, namespace)]
        if not found:
            why = f"no operator of the chart follows namespace {namespace}: annotations have no effect"
            raise NotSeenError(NotSeen(why, "", Cause.OFF))
        return found[0]

    async def _operator(self) -> Operator:
        deployment: Json = await self._known("deployment")
        name = environment(deployment).get("LEASE_NAME", names.OPERATOR)
        space = deployment["metadata"]["namespace"]
        lease = self._cluster.get(f"/apis/coordination.k8s.io/v1/namespaces/{space}/leases/{name}")
        return Operator(deployment, await _seen(lease))

    async def _webhook(self) -> Webhook:
        deployment: Json = await self._known("deployment")
        settings, space = environment(deployment), deployment["metadata"]["namespace"]
        if settings.get("WEBHOOK_ENABLED", "true").lower() == "false":
            raise NotSeenError(NotSeen("webhooks are switched off (webhook.enabled)", "", Cause.OFF))
        name = settings.get("WEBHOOK_CONFIGURATION", names.OPERATOR)
        secret = f"/api/v1/namespaces/{space}/secrets/{settings.get('WEBHOOK_SECRET', names.WEBHOOK)}"
        service = settings.get("WEBHOOK_SERVICE", names.WEBHOOK)
        configurations, certificate, endpoints, refusal = await asyncio.gather(
            _seen(self._configurations(name)),
            _seen(self._cluster.get(secret)),
            _seen(self._webhook_endpoints(space, service, settings)),
            _seen(self._refusals()),
        )
        if isinstance(refusal, NotSeen):
            return Webhook(configurations, certificate, endpoints, refusal)
        return Webhook(configurations, certificate, endpoints, *refusal)

    async def _configurations(self, name: str) -> dict[str, Json | None]:
        kinds = ("Mutating", "Validating")
        bodies = [self._cluster.get(f"{_ADMISSION}/{kind.lower()}webhookconfigurations/{name}") for kind in kinds]
        return dict(zip(kinds, await asyncio.gather(*bodies), strict=True))

    async def _webhook_endpoints(self, space: str, service: str, settings: Mapping[str, str]) -> int:
        if settings.get("WEBHOOK_URL"):
            raise NotSeenError(
                NotSeen(f"the API server reaches the webhook at {settings['WEBHOOK_URL']}", "", Cause.OFF)
            )
        return await self._ready_endpoints(space, service)

    async def _refusals(self) -> tuple[str, int]:
        """Return the message of a refusal, empty if there was none, and how many of the dry runs were let pass."""
        target: Target = await self._known("target")
        if not target.obj.managed:
            raise NotSeenError(NotSeen("the object is not managed, so no webhook judges it", "", Cause.OFF))
        path = f"{_RAY}/namespaces/{self._cluster.namespace}/{names.PLURALS[target.obj.kind]}/{target.obj.name}"
        body = {"metadata": {"annotations": {names.TOTAL_WORKERS: REFUSED_COUNT}}}
        refusals: list[str] = []
        for _ in range(WEBHOOK_TRIES):
            refusals.append(await self._cluster.refusal(path, body))
            if not refusals[-1]:
                # After the operator's pods were replaced, it takes a moment until the API server reaches the new ones.
                await asyncio.sleep(1)
        return max(refusals, key=len), refusals.count("")

    # What programs report from the pods

    async def _ray_pods(self) -> tuple[Target, str, list[Json]]:
        target: Target = await self._known("target")
        if target.serving is None:
            raise NotSeenError(NotSeen("KubeRay has not made a RayCluster"))
        pods = facts.ray_pods(target, await self._known("pods"))
        return target, facts.name_of(target.serving), pods

    async def _head_pod(self) -> tuple[Target, Json]:
        target, cluster, pods = await self._ray_pods()
        pod = facts.head_pod(pods, cluster)
        if pod is None:
            raise NotSeenError(NotSeen(f"RayCluster {cluster} has no head pod"))
        if not facts.runs(pod):
            raise NotSeenError(NotSeen(f"the head pod {facts.name_of(pod)} does not run"))
        return target, pod

    async def _head(self) -> Json:
        target, pod = await self._head_pod()
        return await self._cluster.run(pod, "head", PROGRAM_SECONDS, {"service": self._url(target)})

    async def _application(self) -> Json:
        _, pod = await self._head_pod()
        text: str = await self._known("serve_config")
        async with asyncio.timeout(PROGRAM_SECONDS):
            problems = await asyncio.to_thread(check_serve_config, text)
        if problems:
            raise NotSeenError(NotSeen("serveConfigV2 is not valid"))
        return await self._cluster.run(pod, "application", PROGRAM_SECONDS, {"text": text})

    async def _workers(self) -> dict[str, Seen[Json]]:
        target, cluster, pods = await self._ray_pods()
        device = facts.device_of(target, await self._tasks["serve_config"])
        workers = facts.undeleted_worker_pods(pods, cluster)
        if not workers:
            raise NotSeenError(NotSeen(f"RayCluster {cluster} has no worker pod"))
        answers = await asyncio.gather(*(_seen(self._worker(pod, device)) for pod in workers))
        unseen = [answer for answer in answers if isinstance(answer, NotSeen)]
        if len(unseen) == len(answers):
            raise NotSeenError(unseen[0])
        return {facts.name_of(pod): answer for pod, answer in zip(workers, answers, strict=True)}

    async def _worker(self, pod: Json, device: str) -> Json:
        if not facts.runs(pod):
            raise NotSeenError(NotSeen(f"pod {facts.name_of(pod)} does not run"))
        marker = f".doctor-{secrets.token_hex(6)}"
        return await self._cluster.run(pod, "worker", PROGRAM_SECONDS, {"device": device, "marker": marker})

    async def _request(self) -> Json:
        if not self._options.request:
            raise NotSeenError(NotSeen("left out by --no-request", "", Cause.OFF))
        target, pod = await self._head_pod()
        head: Json = await self._known("head")
        if not is_ready(head):
            raise NotSeenError(NotSeen("the app is not ready for a task"))
        body = SMALL | {"task_id": f"doctor-{secrets.token_hex(6)}", "seed": 1}
        seconds = self._options.timeout
        asked = {"service": self._url(target), "body": body, "seconds": seconds}
        return await self._cluster.run(pod, "request", seconds + 30, asked)

    def _url(self, target: Target) -> str:
        return f"http://{target.api_service}.{self._cluster.namespace}:{names.SERVE_PORT}"


def follows(deployment: Json, namespace: str, named: str = "") -> bool:
    """Return True if an operator's Deployment follows a namespace and, if an object names its operator, is this one."""
    watched = environment(deployment).get("WATCH_NAMESPACE", "")
    there = not watched or namespace in watched.replace(" ", "").split(",")
    return there and named in ("", facts.name_of(deployment))


def environment(deployment: Json) -> dict[str, str]:
    """Return the environment variables of a Deployment's first container that have a plain value."""
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return {one["name"]: one["value"] for one in container.get("env") or () if one.get("value")}


def is_ready(head: Json) -> bool:
    """Return True if the app reports that it is ready for a task."""
    body = head["readyz"].get("body")
    return isinstance(body, dict) and body.get("ready") is True


async def _seen(fact: Awaitable[T]) -> Seen[T]:
    try:
        return await fact
    except NotSeenError as error:
        return error.seen
    except TimeoutError:
        return NotSeen(f"it took longer than {PROGRAM_SECONDS:g} s", "", Cause.BLIND)
