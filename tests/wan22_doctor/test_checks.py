"""Each fault is reported by its check and by no other."""

import base64
import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from wan22_doctor.checks import judge
from wan22_doctor.facts import Facts, KubeRay, Target
from wan22_doctor.findings import Cause, Finding, NotSeen, Result
from wan22_operator.certificates import current

from tests.wan22_doctor import healthy
from tests.wan22_doctor.healthy import HEAD, NOW, WORKERS, ago, condition

Json = dict[str, Any]


def test_a_healthy_service_passes_every_check() -> None:
    findings = judge(healthy.facts())
    assert [finding for finding in findings if finding.result != Result.OK] == []
    assert all(finding.evidence for finding in findings)


def body(facts: Facts) -> Json:
    assert isinstance(facts.target, Target)
    return facts.target.body


def cluster(facts: Facts) -> Json:
    assert isinstance(facts.target, Target)
    return facts.target.clusters[0]


def head(facts: Facts) -> Json:
    assert isinstance(facts.head, dict)
    return facts.head


def worker(facts: Facts, number: int = 0) -> Json:
    assert not isinstance(facts.workers, NotSeen)
    answer = facts.workers[WORKERS[number]]
    assert isinstance(answer, dict)
    return answer


def pod(facts: Facts, number: int) -> Json:
    """Return the head pod (0) or a worker pod (1, 2)."""
    assert not isinstance(facts.pods, NotSeen)
    return facts.pods[number]


def status(facts: Facts, number: int) -> Json:
    found: Json = pod(facts, number)["status"]["containerStatuses"][0]
    return found


def application(facts: Facts) -> Json:
    found: Json = head(facts)["applications"]["body"]["applications"]["wan22"]
    return found


def gang(facts: Facts) -> Json:
    found: Json = head(facts)["readyz"]["body"]["gangs"][0]
    return found


def variables(facts: Facts, rank: int) -> dict[str, str]:
    found: dict[str, str] = gang(facts)["nodes"][rank]["ranks"][0]["environment"]
    return found


def not_ready(facts: Facts, number: int, **env: str) -> None:
    one = pod(facts, number)
    one["status"]["conditions"][1] = condition("Ready", "False", since=600)
    if env:
        one["spec"]["containers"][0]["env"] = [{"name": name, "value": value} for name, value in env.items()]


def waiting(number: int, reason: str, message: str, **last: object) -> Callable[[Facts], None]:
    def spoil(facts: Facts) -> None:
        status(facts, number).update(state={"waiting": {"reason": reason, "message": message}}, lastState=last)
        not_ready(facts, number)

    return spoil


def unschedulable(message: str) -> Callable[[Facts], None]:
    def spoil(facts: Facts) -> None:
        pod(facts, 2)["status"] = {
            "phase": "Pending",
            "conditions": [condition("PodScheduled", "False", "Unschedulable", message)],
        }

    return spoil


def killed_for_memory(facts: Facts) -> None:
    last = {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": ago(60)}}
    status(facts, 1).update(restartCount=3, lastState=last)


def report(facts: Facts, **value: object) -> None:
    annotations = body(facts)["metadata"]["annotations"]
    annotations["wan22.dev/status"] = json.dumps(json.loads(annotations["wan22.dev/status"]) | value)


def asked_for_four(facts: Facts, when: str) -> None:
    metadata = body(facts)["metadata"]
    metadata["annotations"]["wan22.dev/total-workers"] = "4"
    fields: Json = {"f:metadata": {"f:annotations": {"f:wan22.dev/total-workers": {}}}}
    metadata["managedFields"] = [{"manager": "kubectl", "time": when, "fieldsV1": fields}]


def serve_config(change: Callable[[Json], object]) -> Callable[[Facts], Facts]:
    def spoil(facts: Facts) -> Facts:
        value = json.loads(str(facts.serve_config))
        change(value["applications"][0])
        return replace(facts, serve_config=json.dumps(value, indent=2))

    return spoil


def deployments(application: Json) -> dict[str, Json]:
    return {one["name"]: one for one in application["deployments"]}


def event(seconds: float, kind: str, name: str, reason: str, message: str) -> Json:
    return {
        "metadata": {"creationTimestamp": ago(seconds)},
        "lastTimestamp": ago(seconds),
        "involvedObject": {"kind": kind, "name": name},
        "reason": reason,
        "message": message,
    }


def expired(facts: Facts) -> Facts:
    old = current(None, ["wan22-operator-webhook.videos.svc"], NOW - datetime.timedelta(days=100))
    bundle = base64.b64encode(old.ca.encode()).decode()
    hooks = healthy.webhook()
    assert not isinstance(hooks.configurations, NotSeen)
    for configuration in hooks.configurations.values():
        assert configuration is not None
        configuration["webhooks"][0]["clientConfig"]["caBundle"] = bundle
    return replace(facts, webhook=replace(hooks, certificate={"data": old.secret_data()}))


def without_bundle(facts: Facts) -> Facts:
    hooks = healthy.webhook()
    assert not isinstance(hooks.configurations, NotSeen)
    mutating = hooks.configurations["Mutating"]
    assert mutating is not None
    del mutating["webhooks"][0]["clientConfig"]["caBundle"]
    return replace(facts, webhook=replace(hooks, refusal=""))


@dataclass(frozen=True)
class Fault:
    """One fault, and the finding that reports it."""

    what: str
    spoil: Callable[[Facts], object]
    """Changes the facts that it is called with, or returns others."""
    check: str
    evidence: str
    remedy: str
    result: Result = Result.FAILED
    also: tuple[str, ...] = ()
    """Other checks that rightly report it too."""


W = Result.WARNING
LATE = {"version": "2.11.0", "nccl": "2.28.9", "error": "no answer within 6 s", "late": True}
"""A worker's answer about torch if that takes too long."""
SERVED = frozenset({"rayclusters", "rayservices"})
FAULTS = (
    Fault(
        "KubeRay's CRDs are missing",
        lambda f: replace(f, kuberay=KubeRay(frozenset(), frozenset(), ())),
        "KubeRay",
        "no rayclusters and no rayservices",
        "install KubeRay",
    ),
    Fault(
        "KubeRay's CRDs are too old for a token",
        lambda f: replace(f, kuberay=KubeRay(SERVED, frozenset({"headGroupSpec"}), ())),
        "KubeRay",
        "older than 1.5.1",
        "CRDs",
    ),
    Fault(
        "KubeRay's operator is down",
        lambda f: f.kuberay.deployments[0]["status"].update(availableReplicas=0),  # type: ignore[union-attr,index]
        "KubeRay",
        "kuberay/kuberay-operator",
        "describe pods",
    ),
    Fault(
        "KubeRay does not act on the RayService",
        lambda f: body(f).update(status={}),
        "cluster",
        "no status 2 h after it was made",
        "KubeRay's operator runs",
    ),
    Fault(
        "KubeRay has not taken up a change",
        lambda f: body(f)["metadata"].update(generation=4),
        "cluster",
        "generation 4, it has done 3",
        "events",
    ),
    Fault(
        "the RayService never became ready",
        lambda f: body(f)["status"].update(conditions=[condition("Ready", "False", "Initializing", "wait", 3000)]),
        "cluster",
        "not Ready for 50 min: Initializing",
        "below",
    ),
    Fault(
        "the RayService still starts",
        lambda f: body(f)["status"].update(conditions=[condition("Ready", "False", "Initializing", "wait", 60)]),
        "cluster",
        "still starting",
        "-w",
        W,
    ),
    Fault(
        "KubeRay finds the spec invalid",
        lambda f: body(f)["status"].update(conditions=[condition("Ready", "False", "ValidationFailed", "too long", 9)]),
        "cluster",
        "ValidationFailed too long",
        "correct the spec",
    ),
    Fault(
        "the RayService is being deleted",
        lambda f: body(f)["metadata"].update(deletionTimestamp=ago(300), finalizers=["ray.io/x"]),
        "cluster",
        "finalizers: ray.io/x",
        "KubeRay",
    ),
    Fault(
        "a quota keeps pods from being made",
        lambda f: cluster(f)["status"]["conditions"].append(
            condition("ReplicaFailure", "True", "FailedCreateWorkerPod", "exceeded quota: gpus")
        ),
        "cluster",
        "exceeded quota: gpus",
        "quota",
    ),
    Fault(
        "an image that cannot be pulled",
        waiting(1, "ImagePullBackOff", 'Back-off pulling image "wan22:typo"'),
        "pods",
        'wan22:typo"',
        "image.tag",
    ),
    Fault(
        "a container that dies again and again",
        waiting(1, "CrashLoopBackOff", "back-off 5m0s restarting", terminated={"exitCode": 1, "reason": "Error"}),
        "pods",
        "last exit 1 Error",
        "kubectl logs --previous",
    ),
    Fault(
        "a Secret that is missing",
        waiting(1, "CreateContainerConfigError", 'secret "wan22-redis" not found'),
        "pods",
        'secret "wan22-redis" not found',
        "create it",
    ),
    Fault("a pod without memory", killed_for_memory, "pods", "OOMKilled (memory limit 64Gi, 3 restarts)", "raise its"),
    Fault(
        "a pod for which there is no GPU",
        unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        "pods",
        "Insufficient nvidia.com/gpu",
        "free GPUs",
    ),
    Fault(
        "a claim that nothing binds",
        unschedulable("pod has unbound immediate PersistentVolumeClaims"),
        "pods",
        "unbound immediate",
        "storage class",
    ),
    Fault(
        "a pod that is missing",
        lambda f: replace(f, pods=f.pods[:2]),  # type: ignore[index]
        "pods",
        "1 of 2 worker pods",
        "events",
    ),
    Fault(
        "a pod whose probes go through a proxy",
        lambda f: not_ready(f, 1, http_proxy="http://proxy:3128"),
        "pods",
        "not Ready for 10 min",
        "no_proxy",
    ),
    Fault("a pod that does not turn Ready", lambda f: not_ready(f, 1), "pods", "not Ready for 10 min", "APIEntrypoint"),
    Fault(
        "a recent warning",
        lambda f: replace(f, events=(event(30, "RayService", "x", "FailedToUpdateServeApplications", "bad YAML"),)),
        "events",
        "30 s ago, RayService x: FailedToUpdateServeApplications: bad YAML",
        "serveConfigV2",
        W,
    ),
    Fault(
        "serveConfigV2 with a misspelt key",
        serve_config(lambda app: app.update(import_pth="x")),
        "serveConfigV2",
        "import_pth",
        "--check",
    ),
    Fault(
        "serveConfigV2 of aliases",
        lambda f: replace(f, serve_config="applications: &a [*a]\n"),
        "serveConfigV2",
        "found the alias *a",
        "--check",
    ),
    Fault(
        "serveConfigV2 with Python in it",
        lambda f: replace(f, serve_config="import ray\nfrom ray import serve\n"),
        "serveConfigV2",
        "cannot hold Python",
        "--check",
    ),
    Fault(
        "an import path that the image lacks",
        lambda f: replace(f, application={"built": True, "problems": ["app.nope:app: no module app.nope"]}),
        "import path",
        "no module app.nope",
        "image",
    ),
    Fault(
        "TOTAL_WORKERS above what the pods hold",
        serve_config(lambda app: deployments(app)["VideoGenerator"]["user_config"].update(total_workers=4)),
        "resources",
        "1 gang(s) of 4 ranks need 4 worker pods of 1 rank(s), there are 2",
        "kubectl edit",
        also=("Serve",),
    ),
    Fault(
        "no CPU left for APIEntrypoint",
        serve_config(lambda app: app["args"].update(rank_cpus=4)),
        "resources",
        "APIEntrypoint 0.25",
        "--check",
    ),
    Fault(
        "an annotation that is no count",
        lambda f: body(f)["metadata"]["annotations"].update({"wan22.dev/total-workers": "three"}),
        "resources",
        "found 'three'",
        "kubectl annotate",
    ),
    Fault(
        "a resize that waits",
        lambda f: body(f)["metadata"]["annotations"].update({"wan22.dev/total-workers": "4"}),
        "resources",
        "1 gang(s) of 4 wanted, 1 gang(s) of 2 active",
        "status",
        W,
        also=("status",),
    ),
    Fault(
        "CUDA that torch does not see",
        lambda f: worker(f)["torch"].update(available=False, count=0),
        "devices",
        "sees no CUDA (it was built for CUDA 13.0; GPU limit 1)",
        "driver",
    ),
    Fault(
        "fewer devices than the GPU limit",
        lambda f: worker(f)["torch"].update(count=0),
        "devices",
        "torch sees 0 devices, the GPU limit is 1",
        "CUDA_VISIBLE_DEVICES",
    ),
    Fault(
        "torch that fails",
        lambda f: worker(f)["torch"].update(error="RuntimeError: CUDA error: system not yet initialized"),
        "devices",
        "torch 2.11.0+cu130: RuntimeError: CUDA error",
        "driver",
    ),
    Fault(
        "torch that is only slow",
        lambda f: worker(f).update(torch=LATE),
        "devices",
        f"pod {WORKERS[0]}: torch 2.11.0: no answer within 6 s",
        "ask again",
        W,
    ),
    Fault(
        "pods with different images",
        lambda f: worker(f, 1)["torch"].update(nccl="2.20.5"),
        "devices",
        "NCCL 2.20.5",
        "same image",
    ),
    Fault(
        "a model folder that is not mounted",
        lambda f: worker(f)["model"].update(error="MODEL_PATH: folder '/models/wan' does not exist"),
        "model",
        "does not exist",
        "model.existingClaim",
    ),
    Fault(
        "weights that are pointers of Git LFS",
        lambda f: worker(f)["model"].update(broken=["transformer/a.safetensors"]),
        "model",
        "transformer/a.safetensors",
        "git lfs pull",
    ),
    Fault(
        "attention heads of another model",
        lambda f: worker(f)["model"].update(heads=24),
        "model",
        "24 attention heads, args.attention_heads is 40",
        "model.attentionHeads",
    ),
    Fault(
        "storage that cannot be written",
        lambda f: worker(f)["storage"].update(error="PermissionError: [Errno 13] Permission denied"),
        "storage",
        "Permission denied",
        "fsGroup",
    ),
    Fault(
        "storage that each pod has for itself",
        lambda f: pod(f, 1)["spec"].update(volumes=[{"name": "videos", "emptyDir": {}}]),
        "storage",
        "an emptyDir of each pod",
        "storage.persistence.enabled",
    ),
    Fault(
        "Redis with another password",
        lambda f: head(f)["redis"].update(error="AuthenticationError: WRONGPASS invalid username-password pair"),
        "Redis",
        "WRONGPASS",
        "REDIS_PASSWORD",
    ),
    Fault(
        "Redis that one pod does not reach",
        lambda f: worker(f, 1)["redis"].update(error="timed out"),
        "Redis",
        f"from pod {WORKERS[1]}: timed out",
        "networkpolicy",
    ),
    Fault(
        "Redis that may evict tasks",
        lambda f: head(f)["redis"]["config"].update({"maxmemory": "1000", "maxmemory-policy": "allkeys-lru"}),
        "Redis on disk",
        "allkeys-lru",
        "noeviction",
    ),
    Fault(
        "Redis that forgets at a restart",
        lambda f: head(f)["redis"]["config"].update(appendonly="no"),
        "Redis on disk",
        "loses tasks",
        "appendonly yes",
        W,
    ),
    Fault(
        "a pod that has not joined Ray",
        lambda f: head(f)["nodes"]["body"]["data"]["result"]["result"].pop(),
        "Ray",
        "1 of 2 worker pods have joined",
        "kubectl logs",
    ),
    Fault(
        "GPUs that Ray does not count",
        lambda f: head(f)["nodes"]["body"]["data"]["result"]["result"][1]["resources_total"].pop("GPU"),
        "Ray",
        "Ray counts 0 GPUs on 10.0.0.11, its pod has 1",
        "num-gpus",
    ),
    Fault(
        "a rank that waits for room",
        lambda f: head(f)["waiting"]["body"]["data"]["result"]["result"].append(
            {"bundles": [{"unit_resources": {"GPU": 1.0}}]}
        ),
        "Ray",
        "{'GPU': 1.0}",
        "more worker pods",
        W,
    ),
    Fault(
        "an application that failed to deploy",
        lambda f: application(f).update(status="DEPLOY_FAILED", message="Traceback ... ConfigError: no MODEL_PATH"),
        "Serve",
        "wan22 is DEPLOY_FAILED: Traceback ... ConfigError: no MODEL_PATH",
        "serveConfigV2 changes",
    ),
    Fault(
        "a deployment that is unhealthy",
        lambda f: application(f)["deployments"]["VideoGenerator"].update(status="UNHEALTHY", message="gang died"),
        "Serve",
        "VideoGenerator is UNHEALTHY: gang died",
        "kubectl logs",
    ),
    Fault(
        "Serve with an older configuration",
        lambda f: application(f)["deployed_app_config"]["deployments"][1]["user_config"].update(total_workers=1),
        "Serve",
        "1, 1, 2, not 2, 1, 2",
        "KubeRay sends it to Serve",
    ),
    Fault(
        "Serve without an application",
        lambda f: head(f)["applications"]["body"].update(applications={}),
        "Serve",
        "no application",
        "serve run --name wan22",
    ),
    Fault(
        "a token that is not Ray's",
        lambda f: head(f)["applications"].update(status=401, body="Unauthorized"),
        "Serve",
        "answered 401",
        "delete the pods",
    ),
    Fault(
        "a Service without pods",
        lambda f: replace(f, endpoints=0),
        "API",
        "wan22-rayservice-serve-svc has no ready pod",
        "pods and Serve",
    ),
    Fault(
        "an app that is not ready",
        lambda f: head(f)["readyz"].update(
            status=503, body={"ready": False, "message": "the task store (Redis) does not answer", "gangs": []}
        ),
        "API",
        "Redis) does not answer",
        "check of Redis",
    ),
    Fault(
        "a gang that is too small",
        lambda f: (
            gang(f).update(have=1, phase="degraded", message="no GPUs", nodes=gang(f)["nodes"][:1])
            or variables(f, 0).update(WORLD_SIZE="1")
        ),
        "gangs",
        "1 of 2 ranks, degraded: no GPUs",
        "room",
        also=("status",),
    ),
    Fault(
        "a gang that is missing",
        lambda f: application(f)["deployments"]["VideoGenerator"].update(target_num_replicas=2),
        "gangs",
        "1 of 2 gang(s) report",
        "loaded the model",
    ),
    Fault(
        "two ranks of one number",
        lambda f: variables(f, 1).update(RANK="0"),
        "rendezvous",
        "RANK is 0, 0, need each of 0 to 1 once",
        "leader",
    ),
    Fault(
        "MASTER_ADDR localhost over two nodes",
        lambda f: [variables(f, rank).update(MASTER_ADDR="localhost") for rank in (0, 1)],
        "rendezvous",
        "MASTER_ADDR is localhost, need 10.0.0.11",
        "leader",
    ),
    Fault(
        "a rank without MASTER_PORT",
        lambda f: variables(f, 1).pop("MASTER_PORT"),
        "rendezvous",
        "rank 1 has no MASTER_PORT",
        "leader",
    ),
    Fault(
        "ranks that meet at two ports",
        lambda f: variables(f, 1).update(MASTER_PORT="5"),
        "rendezvous",
        "different addresses",
        "leader",
    ),
    Fault(
        "LOCAL_RANK from the global rank",
        lambda f: variables(f, 1).update(LOCAL_RANK="1"),
        "rendezvous",
        "LOCAL_RANK on 10.0.0.12 is 1",
        "leader",
    ),
    Fault(
        "an operator that is scaled away",
        lambda f: f.operator.deployment["spec"].update(replicas=0),  # type: ignore[union-attr]
        "operator",
        "videos/wan22-operator is scaled to 0",
        "--replicas=2",
    ),
    Fault(
        "an operator without pods",
        lambda f: f.operator.deployment["status"].update(availableReplicas=0),  # type: ignore[union-attr]
        "operator",
        "0 of 2 pods available",
        "describe pods",
    ),
    Fault(
        "a Lease that nobody renews",
        lambda f: f.operator.lease["spec"].update(renewTime=ago(600)),  # type: ignore[union-attr,index]
        "operator",
        "has not renewed the Lease wan22-operator for 10 min",
        "log",
    ),
    Fault(
        "a webhook without caBundle",
        without_bundle,
        "webhook",
        "MutatingWebhookConfiguration wan22-operator-videos has no caBundle",
        "ClusterRole",
    ),
    Fault("a certificate that has ended", expired, "webhook", "ended 10 d ago", "restart the operator"),
    Fault(
        "a webhook's Service without pods",
        lambda f: replace(f, webhook=replace(healthy.webhook(), endpoints=0, refusal="")),
        "webhook",
        "no ready pod",
        "operator's pods",
    ),
    Fault(
        "a webhook that the API server does not reach",
        lambda f: replace(f, webhook=replace(healthy.webhook(), refusal="")),
        "webhook",
        "was let pass",
        "9443",
    ),
    Fault(
        "a webhook that misses most calls",
        lambda f: replace(f, webhook=replace(healthy.webhook(), missed=3)),
        "webhook",
        "3 of 4 dry runs of a wrong annotation were let pass",
        "9443",
    ),
    Fault(
        "a webhook that misses a call",
        lambda f: replace(f, webhook=replace(healthy.webhook(), missed=1)),
        "webhook",
        "1 of 4 dry runs",
        "9443",
        W,
    ),
    Fault(
        "a resize that is stuck",
        lambda f: report(f, phase="resizing", message="2 of 4 worker pods have joined Ray", since=ago(3600)),
        "status",
        "for 60 min: resizing, wanted 1 x 2, have 1 x 2: 2 of 4 worker pods have joined Ray",
        "kubectl annotate",
    ),
    Fault(
        "a resize that is under way",
        lambda f: report(f, phase="resizing", message="2 of 4 worker pods have joined Ray", since=ago(60)),
        "status",
        "for 60 s: resizing",
        "kubectl annotate",
        W,
    ),
    Fault(
        "an operator that does not see what is asked for",
        lambda f: asked_for_four(f, ago(600)),
        "status",
        "asks for 1 x 4 for 10 min, and the operator's report is about 1 x 2",
        "sees its objects",
        also=("resources",),
    ),
    Fault(
        "a count that was asked for just now",
        lambda f: asked_for_four(f, ago(5)),
        "status",
        "asks for 1 x 4 for 5 s",
        "sees its objects",
        W,
        also=("resources",),
    ),
    Fault(
        "a report that is out of date",
        lambda f: report(f, have={"totalWorkers": 1, "gangs": 1}),
        "status",
        "have 1 x 1, the gangs 1 x 2",
        "operator runs",
    ),
    Fault(
        "a count that the operator refuses",
        lambda f: report(f, phase="refused", message="3 ranks have no plan"),
        "status",
        "3 ranks have no plan",
        "correct",
    ),
    Fault(
        "a task that fails",
        lambda f: f.request.update(status="failed", error={"code": "out_of_memory", "message": "ask for less"}),  # type: ignore[union-attr]
        "request",
        "out_of_memory: ask for less",
        "correct",
    ),
    Fault(
        "a video that does not come",
        lambda f: f.request.update(video_error="410: it was removed"),  # type: ignore[union-attr]
        "request",
        "410: it was removed",
        "storage",
    ),
    Fault(
        "a task that nobody takes",
        lambda f: f.request.update(status="queued", seconds=120),  # type: ignore[union-attr]
        "request",
        "is queued after 120 s",
        "epoch",
    ),
    Fault(
        "a submit that is refused",
        lambda f: replace(f, request={"task_id": "t", "refused": 503, "message": "Redis does not answer"}),
        "request",
        "POST /generate: 503: Redis does not answer",
        "check of Redis",
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_is_named_by_its_check_alone(fault: Fault) -> None:
    facts = healthy.facts()
    spoilt = fault.spoil(facts)
    findings = judge(spoilt if isinstance(spoilt, Facts) else facts)
    bad = [finding for finding in findings if finding.result in (Result.FAILED, Result.WARNING)]
    mine = [finding for finding in bad if finding.check == fault.check]
    assert [finding.result for finding in mine] == [fault.result], findings
    assert fault.evidence in mine[0].evidence
    assert fault.remedy in mine[0].remedy
    assert {finding.check for finding in bad} == {fault.check, *fault.also}


def of(findings: list[Finding], result: Result) -> dict[str, str]:
    return {finding.check: finding.evidence for finding in findings if finding.result == result}


def test_what_hangs_on_a_missing_service_is_not_checked_and_says_why() -> None:
    missing = NotSeen("namespace videos has no RayService", "install the chart", Cause.FAULT)
    gone = dict.fromkeys(("pods", "serve_config", "endpoints", "head", "application", "workers"), missing.behind())
    findings = judge(replace(healthy.facts(), target=missing, request=missing.behind(), **gone))  # type: ignore[arg-type]
    assert of(findings, Result.FAILED) == {"cluster": "namespace videos has no RayService"}
    unchecked = of(findings, Result.SKIPPED)
    assert set(unchecked.values()) == {"namespace videos has no RayService"}
    assert len(unchecked) > 12


def test_a_fault_that_many_checks_need_is_told_once() -> None:
    fault = NotSeen("nothing can be run in the head pod", "kubectl exec", Cause.FAULT)
    findings = judge(replace(healthy.facts(), head=fault, application=fault))
    assert of(findings, Result.FAILED) == {"import path": "nothing can be run in the head pod"}
    assert {"Redis", "Ray", "Serve", "gangs", "request"} < of(findings, Result.SKIPPED).keys()


def test_a_worker_pod_that_does_not_answer_is_named_and_the_others_are_judged() -> None:
    facts = healthy.facts()
    silent = NotSeen("pod b: the worker program took more than 8 s", "kubectl top pod b", Cause.FAULT)
    findings = judge(replace(facts, workers={WORKERS[0]: healthy.worker(), WORKERS[1]: silent}))
    assert of(findings, Result.FAILED) == {"devices": "pod b: the worker program took more than 8 s"}


def test_pods_that_are_all_late_are_no_fault() -> None:
    found = judge(replace(healthy.facts(), workers={name: healthy.worker() | {"torch": LATE} for name in WORKERS}))
    assert [finding.result for finding in found if finding.check == "devices"] == [Result.WARNING] * 2
    assert of(found, Result.FAILED) == {}


def test_a_cpu_pod_is_no_fault_where_the_device_is_cpu() -> None:
    facts = serve_config(lambda app: app["args"].update(device="cpu"))(healthy.facts())
    for number in (0, 1):
        worker(facts, number)["torch"] = {"version": "2.15.0", "nccl": ""}
    findings = judge(facts)
    assert "cpu, as args.device says" in of(findings, Result.OK)["devices"]


def test_warnings_whose_cause_is_over_are_left_out() -> None:
    events = (
        event(60, "Pod", WORKERS[0], "Unhealthy", "Readiness probe failed"),
        event(60, "Pod", "gone", "FailedScheduling", "no GPU"),
        event(3600, "RayService", "x", "FailedToUpdateServeApplications", "long ago"),
    )
    findings = judge(replace(healthy.facts(), events=events))
    assert "events" in of(findings, Result.OK)


def test_an_upgrade_under_way_is_a_warning() -> None:
    facts = healthy.facts()
    body(facts)["status"]["pendingServiceStatus"] = {"rayClusterName": "next"}
    assert "RayCluster next is starting to replace it" in of(judge(facts), Result.WARNING)["cluster"]


def test_a_task_that_waits_behind_others_is_no_fault() -> None:
    facts = healthy.facts()
    gang(facts)["task_id"] = "someone-elses"
    assert isinstance(facts.request, dict)
    facts.request.update(status="queued", seconds=120)
    assert "busy with other tasks" in of(judge(facts), Result.WARNING)["request"]


def test_a_head_pod_that_does_not_run_is_named_once() -> None:
    facts = healthy.facts()
    waiting(0, "ErrImagePull", "no such image")(facts)
    unseen = NotSeen(f"the head pod {HEAD} does not run")
    findings = judge(replace(facts, head=unseen, application=unseen, request=unseen))
    assert list(of(findings, Result.FAILED)) == ["pods"]


def test_a_fault_of_many_pods_is_told_a_few_times() -> None:
    many = {f"worker-{number}": healthy.worker() | {"torch": {"version": ""}} for number in range(64)}
    told = [one for one in judge(replace(healthy.facts(), workers=many)) if one.check == "devices"]
    assert [one.result for one in told] == [Result.FAILED] * 6
    assert told[-1].evidence == "and 59 more"
