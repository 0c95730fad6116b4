"""The checks of Redis, which holds the tasks: that the pods reach it as the app does, and that it keeps its data."""

import datetime
from collections.abc import Iterator, Mapping

from wan22_doctor.checks.pods import judge_pod
from wan22_doctor.facts import Json, label
from wan22_doctor.findings import Finding, NotSeen, Seen, failed, ok, skipped, warning

# A part of the error, and the remedy.
_HINTS = (
    ("WRONGPASS", "the pods' REDIS_PASSWORD is not the server's: see redis.existingSecret and redis.passwordKey"),
    ("NOAUTH", "it asks for a password: set redis.existingSecret"),
    ("AuthenticationError", "the pods' REDIS_PASSWORD is not the server's: see redis.existingSecret"),
    ("READONLY", "it is a replica: name the primary in redis.external.host"),
    ("MISCONF", "it cannot write to its disk: see the volume's free space and the Redis log"),
    ("OOM", "its memory is full: raise redis.resources or its maxmemory"),
    ("Name or service not known", "no such host: see redis.external.host, or the Redis Service"),
    ("Name does not resolve", "no such host: see redis.external.host, or the Redis Service"),
    (
        "belong to release",
        "give each release its own redis.keyPrefix, or delete the key `<prefix>owner` in that Redis "
        "if the other release no longer exists",
    ),
    ("not set", "set redis.external.host, or redis.enabled"),
)


def reach(
    pods: tuple[Json, ...], now: datetime.datetime, head: Seen[Json], workers: Seen[Mapping[str, Seen[Json]]]
) -> Iterator[Finding]:
    """Judge the chart's own Redis pod, ping and write from the head pod, and the connection from every worker pod."""
    own = [pod for pod in pods if label(pod, "app.kubernetes.io/component") == "redis"]
    problems = [one for pod in own for one in judge_pod(pod, now)]
    found = None if isinstance(head, NotSeen) else head["redis"]
    if found and "error" in found:
        problems.append(failed(f"{found['server']} from the head pod: {found['error']}", _hint(found["error"])))
    seen = {} if isinstance(workers, NotSeen) else workers
    for pod, answer in seen.items():
        if not isinstance(answer, NotSeen) and "error" in answer["redis"]:
            text = f"{answer['redis']['server']} from pod {pod}: {answer['redis']['error']}"
            problems.append(failed(text, _hint(answer["redis"]["error"])))
    yield from problems
    if not problems and isinstance(head, NotSeen):
        # Ray's head does not live without Redis, so the workers' answers above may be the only ones.
        yield skipped(head.why)
    elif not problems and found:
        looked = sum(not isinstance(answer, NotSeen) for answer in seen.values())
        yield ok(
            f"{found['server']} (version {found['version']}) takes writes from the head pod in "
            f"{found['seconds'] * 1000:.0f} ms, and {looked} worker pod(s) reach it"
        )


def _hint(error: str) -> str:
    for word, remedy in _HINTS:
        if word in error:
            return remedy
    return (
        "see the Redis pod and its NetworkPolicy: kubectl get pods,networkpolicy -l app.kubernetes.io/component=redis"
    )


def persistence(head: Json) -> Iterator[Finding]:
    """Judge whether tasks survive a restart of Redis, and whether Redis may evict them."""
    found = head["redis"]
    if "error" in found:
        yield skipped("Redis does not answer")
        return
    if "config" not in found:
        yield skipped(f"the server does not show its configuration ({found.get('config_error')})")
        return
    config = found["config"]
    policy, limit = config.get("maxmemory-policy", "?"), int(config.get("maxmemory") or 0)
    text = f"appendonly {config.get('appendonly')}, appendfsync {config.get('appendfsync')}, maxmemory-policy {policy}"
    problems = []
    if policy != "noeviction":
        report = failed if limit else warning
        problems.append(report(f"{text}, maxmemory {limit}: it may drop tasks", "set maxmemory-policy noeviction"))
    if config.get("appendonly") != "yes":
        problems.append(
            warning(f"{text}: a restart of Redis loses tasks", "set appendonly yes, and appendfsync always or everysec")
        )
    yield from problems
    if not problems:
        yield ok(text)
