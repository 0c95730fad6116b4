"""The checks of the model that the pods load, and of the storage of videos."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from wan22_doctor.facts import Json, Target, app_args, name_of, ray_pods, sized
from wan22_doctor.findings import Finding, NotSeen, Seen, failed, ok, warning

LEAST_FREE = 10**9
"""Bytes of free space below which the storage is reported."""


def model(serve_config: Seen[str], workers: Mapping[str, Seen[Json]]) -> Iterator[Finding]:
    """Judge the model folder in every worker pod."""
    found = {pod: answer["model"] for pod, answer in workers.items() if not isinstance(answer, NotSeen)}
    heads = app_args(serve_config).attention_heads
    problems = [one for pod, folder in found.items() for one in _folder(pod, folder, heads)]
    yield from problems
    if problems or not found:
        return
    folder = next(iter(found.values()))
    if folder.get("hub"):
        cached = sum(bool(one.get("cached")) for one in found.values())
        yield ok(f"{folder['path']} is a hub id; {cached} of {len(found)} worker pods have it in their cache")
    else:
        yield ok(
            f"{folder['path']}: {folder['pipeline']}, {folder['heads']} heads, {folder['weights']} weight file(s), "
            f"{sized(folder['bytes'])}, readable in {len(found)} worker pod(s)"
        )


def _folder(pod: str, folder: Json, serve_heads: int | None) -> Iterator[Finding]:
    if folder.get("error"):
        yield failed(f"pod {pod}: {folder['error']}", "set model.path, and mount the model with model.existingClaim")
    elif folder.get("hub"):
        return
    elif not folder["weights"]:
        yield failed(f"pod {pod}: {folder['path']} has no *.safetensors", "copy the whole diffusers folder there")
    elif folder["broken"]:
        listed = ", ".join(folder["broken"][:3])
        yield failed(
            f"pod {pod}: {folder['path']}: empty, unreadable or mere pointers of Git LFS: {listed}",
            "fetch the files themselves (git lfs pull), and make them readable for the pods' user",
        )
    elif serve_heads not in (None, folder["heads"]):
        yield failed(
            f"pod {pod}: the model has {folder['heads']} attention heads, args.attention_heads is {serve_heads}",
            "correct model.attentionHeads, or model.path",
        )


def storage(target: Target, pods: tuple[Json, ...], workers: Mapping[str, Seen[Json]]) -> Iterator[Finding]:
    """Judge whether every worker pod can write to the storage of videos, and whether all pods share it."""
    found = {pod: answer["storage"] for pod, answer in workers.items() if not isinstance(answer, NotSeen)}
    problems = []
    for pod, one in found.items():
        if "error" in one:
            problems.append(failed(f"pod {pod}: {one['uri']}: {one['error']}", _hint(one)))
        elif one.get("free", LEAST_FREE) < LEAST_FREE:
            problems.append(
                warning(
                    f"pod {pod}: {one['uri']} has {sized(one['free'])} left", "delete videos, or enlarge the volume"
                )
            )
    own = [pod for pod in ray_pods(target, pods) if name_of(pod) in found]
    if not problems and len(own) > 1:
        problems += _shared(own[0], found[name_of(own[0])])
    yield from problems
    if not problems and found:
        one = next(iter(found.values()))
        slowest = max(float(answer["seconds"]) for answer in found.values())
        free = f", {sized(one['free'])} free" if "free" in one else ""
        yield ok(f"{one['uri']}: written, read and deleted in {len(found)} worker pod(s), {slowest:.2f} s{free}")


def _hint(one: Json) -> str:
    error = str(one["error"])
    if "Permission" in error or "Read-only" in error:
        return "the pods' user must own the volume: podSecurityContext.fsGroup, or the volume's access mode"
    if "No space" in error:
        return "delete videos, or enlarge the claim (storage.persistence.size)"
    if str(one["uri"]).startswith("file:"):
        return "see storage.uri and storage.mountPath"
    return "see storage.uri, and the credentials in storage.existingSecret"


def _shared(pod: Json, one: Json) -> Iterator[Finding]:
    """Report a file:// storage that each pod has for itself: the other pods' APIEntrypoints do not find its videos."""
    uri = urlsplit(str(one["uri"]))
    if uri.scheme != "file":
        return
    volume = volume_of(pod, uri.path)
    if volume is None or "emptyDir" in volume:
        kind = "an emptyDir" if volume else "the container's own disk"
        yield failed(
            f"{one['uri']} is {kind} of each pod: a video is found only through its own pod, and is lost with that pod",
            "set storage.persistence.enabled, or a storage.uri such as s3://bucket/videos",
        )


def volume_of(pod: Json, path: str) -> dict[str, Any] | None:
    """Return the volume that holds a path of a pod's first container; None if no volume does."""
    spec = pod["spec"]
    mounts = sorted(spec["containers"][0].get("volumeMounts") or (), key=lambda one: -len(one["mountPath"]))
    volumes = {one["name"]: one for one in spec.get("volumes") or ()}
    for mount in mounts:
        base = str(mount["mountPath"]).rstrip("/")
        if path == base or path.startswith(f"{base}/"):
            return volumes.get(mount["name"])
    return None
