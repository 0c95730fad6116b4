"""The check of each worker pod's devices, as torch sees them."""

from collections.abc import Iterator, Mapping

from wan22_doctor.facts import Json, Target, device_of
from wan22_doctor.findings import Cause, Finding, NotSeen, Seen, failed, ok, warning


def devices(target: Target, serve_config: Seen[str], workers: Mapping[str, Seen[Json]]) -> Iterator[Finding]:
    """Judge CUDA, the number of devices, and torch's and NCCL's versions."""
    device, group = device_of(target, serve_config), target.obj.group
    gpus = group.gpus if group else 0
    found = {pod: answer["torch"] for pod, answer in workers.items() if not isinstance(answer, NotSeen)}
    faults = [one for one in workers.values() if isinstance(one, NotSeen) and one.cause == Cause.FAULT]
    problems = [failed(one.why, one.remedy) for one in faults]
    problems += [one for pod, torch in found.items() for one in _pod(pod, torch, device, gpus)]
    # A late pod reports its packages' versions, which may differ from torch's own: 2.11.0 is 2.11.0+cu130.
    in_time = {pod: torch for pod, torch in found.items() if not torch.get("late")}
    versions = {(torch["version"], torch.get("nccl", "")) for torch in in_time.values()}
    if len(versions) > 1:
        listed = "; ".join(f"{pod}: torch {one['version']}, NCCL {one.get('nccl')}" for pod, one in in_time.items())
        problems.append(failed(f"the pods differ: {listed}", "run the same image in every pod"))
    yield from problems
    if problems or not found:
        return
    torch = next(iter(found.values()))
    libraries = f"torch {torch['version']}, NCCL {torch.get('nccl') or 'not installed'}"
    if device == "cpu":
        yield ok(f"cpu, as args.device says, in {len(found)} worker pod(s): {libraries}; ranks use gloo")
    else:
        kind = ", ".join(sorted(set(torch.get("names", ()))))
        yield ok(f"{torch['count']} x {kind} in each of {len(found)} worker pod(s): {libraries}, CUDA {torch['cuda']}")


def _pod(pod: str, torch: Json, device: str, gpus: int) -> Iterator[Finding]:
    if not torch["version"]:
        yield failed(f"pod {pod}: torch is not installed", "build the image with the extra app (torch)")
    elif device == "cpu":
        return
    elif torch.get("late"):
        remedy = "ask again; if it stays so, see the node's load and its driver: nvidia-smi in the pod"
        yield warning(f"pod {pod}: torch {torch['version']}: {torch['error']}", remedy)
    elif torch.get("error"):
        yield failed(
            f"pod {pod}: torch {torch['version']}: {torch['error']}", "see the node's driver: nvidia-smi in the pod"
        )
    elif not torch["available"]:
        why = "it was built without CUDA" if not torch["cuda"] else f"it was built for CUDA {torch['cuda']}"
        yield failed(
            f"pod {pod}: args.device is cuda, but torch {torch['version']} sees no CUDA ({why}; GPU limit {gpus})",
            "give the node a newer driver, or the pod a GPU limit (gpusPerWorker) or worker.runtimeClassName nvidia, "
            "or set args.device to cpu",
        )
    elif torch["count"] < gpus:
        yield failed(
            f"pod {pod}: torch sees {torch['count']} devices, the GPU limit is {gpus}",
            "unset CUDA_VISIBLE_DEVICES in the pod (extraEnv), and see the node's device plugin",
        )
    elif torch["count"] > gpus:
        yield warning(
            f"pod {pod}: torch sees {torch['count']} devices, the GPU limit is {gpus}: GPUs of other pods are visible",
            "see the node's container runtime; ranks use only the GPUs that Ray assigns to them",
        )
