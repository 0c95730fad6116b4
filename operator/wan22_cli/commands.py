"""The commands that both programs have. Each takes a service, and prints what it did."""

import time
import uuid
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wan22_cli import output as shown
from wan22_cli.output import Json, Output
from wan22_cli.parameters import Request
from wan22_cli.problems import Exit, Problem
from wan22_cli.service import ENDED, POLL_SECONDS, Service

PATIENCE_SECONDS = 300.0

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task's name.", show_default=False)]
VideoFile = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where the video goes; by default TASK.mp4.", show_default=False
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Stop waiting after this time; the task goes on.",
        show_default=False,
    ),
]
Patience = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="How long to try again while the service does not answer.")
]


class Status(StrEnum):
    """The states by which tasks can be listed."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


def generate(
    to: Service,
    output: Output,
    request: Request,
    file: VideoFile = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the video, or only submit the task.")] = True,
    timeout: Timeout = None,
    patience: Patience = PATIENCE_SECONDS,
) -> Exit:
    """Make a video from PROMPT: submit a task, follow it, and save its video.

    The task has a name from the start, so that nothing is made twice while the service restarts. Ctrl-C leaves the task
    running.
    """
    body = dict(request)
    image: Path | None = body.pop("image", None)
    task_id = str(body.setdefault("task_id", uuid.uuid4().hex))
    target = file or Path(f"{task_id}.mp4")
    if wait:
        _check_target(target)
    with output.progress() as progress:
        task = to.submit(body, image, patience=patience, tell=progress.tell)
        if wait:
            try:
                task = _video(to, task, target, progress, timeout, patience)
            except KeyboardInterrupt:
                output.note(f"Task {task_id} is {task['status']}. {to.goes_on(task_id)}")
                raise
    if not wait:
        output.result(task, task_id)
        return Exit.DONE
    return _ended(output, task, target)


def download(
    to: Service,
    output: Output,
    task_id: TaskName,
    file: VideoFile = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the task has ended.")] = False,
    timeout: Timeout = None,
    patience: Patience = PATIENCE_SECONDS,
) -> Exit:
    """Save the video of a task."""
    target = file or Path(f"{task_id}.mp4")
    _check_target(target)
    with output.progress() as progress:
        task = to.task(task_id, patience=patience, tell=progress.tell)
        if not wait and task["status"] not in ENDED:
            message = f"Task {task_id} is {task['status']} and has no video yet; --wait waits for it."
            raise Problem(Exit.NO, message, "no_video")
        task = _video(to, task, target, progress, timeout, patience)
    return _ended(output, task, target)


def list_tasks(
    to: Service,
    output: Output,
    status: Annotated[Status | None, typer.Option(help="Only tasks in this state.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", "-l", min=1, help="How many tasks.")] = 20,
) -> None:
    """List tasks, newest first."""
    page = to.tasks(status.value if status else None, limit)
    output.result(page, shown.task_table(page["tasks"]) if page["tasks"] else "There are no tasks.")
    if page["cursor"] and not output.as_json:
        output.note(f"There are more than {limit}; --limit shows more.", "dim")


def show(to: Service, output: Output, task_id: TaskName) -> None:
    """Show all that is known of a task: its state, its error, and its request with every field filled in."""
    task = to.task(task_id)
    output.result(task, shown.task_details(task))


def cancel(
    to: Service,
    output: Output,
    task_id: TaskName,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the task and its video if it has ended.")] = False,
) -> Exit:
    """Cancel a task: a queued one at once, a running one at its next step."""
    task = to.task(task_id)
    ended = task["status"] in ENDED
    if ended and not delete:
        message = f"Task {task_id} {_past(task)} already; --delete deletes it with its files."
        raise Problem(Exit.NO, message, "ended")
    task = to.delete(task_id)
    if ended:
        words = f"Task {task_id}, which {_past(task)}, is deleted with its files."
    elif task["status"] == "cancelled":
        words = f"Task {task_id} is cancelled."
    else:
        words = f"Task {task_id} is {task['status']}; it stops at its next step."
    output.result(task, words)
    return Exit.DONE


def ready(
    to: Service,
    output: Output,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long to wait until the service is ready.")
    ] = 0,
) -> Exit:
    """Say whether a task would run now, and how each gang is."""
    deadline = time.monotonic() + wait
    while True:
        try:
            found = to.readiness()
        except Problem as problem:
            if problem.status != Exit.SILENT or time.monotonic() > deadline:
                raise
        else:
            if found["ready"] or time.monotonic() > deadline:
                break
        time.sleep(POLL_SECONDS)
    words = "[green]ready[/]" if found["ready"] else "[bold red]not ready[/]"
    rows = [shown.gang_table(found["gangs"])] if found["gangs"] else []
    output.result(found, words, *([found["message"]] if found["message"] else []), *rows)
    return Exit.DONE if found["ready"] else Exit.NO


def _check_target(target: Path) -> None:
    """Refuse a file that cannot be written before a GPU works for it.

    Raises:
        Problem: its folder does not exist, or it is a folder.
    """
    if target.is_dir() or not target.parent.is_dir():
        reason = "it is a folder" if target.is_dir() else f"there is no folder {target.parent}"
        raise Problem(Exit.REFUSED, f"--output {target}: {reason}; name a file in a folder that exists.", "output")


def _video(
    to: Service, task: Json, target: Path, progress: shown.TaskProgress, timeout: float | None, patience: float
) -> Json:
    """Follow a task to its end and save its video, if it has one; return the task."""
    for one in to.follow(task, timeout, patience=patience, tell=progress.tell):
        progress.show(one)
        task = one
    if task["status"] == "succeeded":
        to.download(task["task_id"], target, patience=patience, tell=progress.tell)
    return task


def _ended(output: Output, task: Json, target: Path) -> Exit:
    if task["status"] == "succeeded":
        output.result(task | {"file": str(target)}, str(target))
        return Exit.DONE
    if output.as_json:
        output.result(task)
    else:
        error = f" ({task['error']['code']}): {task['error']['message']}" if task["error"] else ""
        output.note(f"Task {task['task_id']} {_past(task)}{error}", "bold red")
    return Exit.NO


def _past(task: Json) -> str:
    return "was cancelled" if task["status"] == "cancelled" else f"has {task['status']}"
