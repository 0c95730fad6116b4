"""The check of one small task, sent through the Service that clients call."""

from collections.abc import Iterator

from wan22_doctor.checks.gangs import reported
from wan22_doctor.facts import Json
from wan22_doctor.findings import Finding, failed, ok, warning


def request(found: Json, head: Json) -> Iterator[Finding]:
    """Judge the outcome of the task."""
    task, seconds = found["task_id"], found.get("seconds", 0.0)
    if "refused" in found:
        status = found["refused"] or "no answer"
        yield failed(f"POST /generate: {status}: {found['message']}", _remedy(found["refused"]))
    elif found["status"] == "succeeded" and "video_error" not in found:
        started = f", started after {found['started_seconds']:.1f} s" if "started_seconds" in found else ""
        again = f", attempt {found['attempt']}" if found.get("attempt", 1) > 1 else ""
        yield ok(
            f"task {task}: a video of {found['video_bytes']} bytes after {seconds:.1f} s (accepted in "
            f"{found['submit_seconds'] * 1000:.0f} ms{started}{again})"
        )
    elif found["status"] == "succeeded":
        yield failed(
            f"task {task} succeeded, but its video cannot be downloaded: {found['video_error']}",
            "see the check of the storage",
        )
    elif found["status"] in ("failed", "cancelled"):
        error = found.get("error") or {}
        text = f"task {task} {found['status']} after {seconds:.1f} s: {error.get('code')}: {error.get('message')}"
        yield failed(text, "correct what the message says; the pods' logs have the details")
    else:
        yield _not_ended(found, head)


def _not_ended(found: Json, head: Json) -> Finding:
    task, seconds, progress = found["task_id"], found["seconds"], found.get("progress") or {}
    text = f"task {task} is {found['status']} after {seconds:.0f} s and was cancelled"
    if found["status"] == "running":
        done = f"step {progress.get('step')} of {progress.get('steps')}"
        return warning(f"{text} ({done})", "a large model may need more time: --timeout")
    busy = [gang for gang in reported(head) or [] if gang.get("task_id")]
    if busy:
        return warning(f"{text}: {len(busy)} gang(s) were busy with other tasks", "try again later, or --timeout")
    return failed(
        f"{text}, though no gang was busy",
        "see whether another release holds the newest epoch in the same Redis, and the APIEntrypoints' logs",
    )


def _remedy(status: int) -> str:
    return {
        422: "this model does not accept the doctor's request; use --no-request",
        429: "the queue is full: raise the number of gangs or app.maxQueuedTasks",
        503: "see the check of Redis",
    }.get(status, "see the checks of the API and Serve")
