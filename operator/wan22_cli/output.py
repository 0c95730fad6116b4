"""What a command prints: its result to standard output, how far it is to standard error."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

STYLES = {"queued": "yellow", "running": "cyan", "succeeded": "green", "failed": "bold red", "cancelled": "magenta"}
NOTE_CHARACTERS = 200
UNBOUNDED = 100_000
"""Characters of a line that no terminal bounds."""


class Output:
    """Prints results as one JSON document if ``as_json``, else for people."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._out = Console()
        if not self._out.is_terminal:
            # Programs that read lines get whole ones.
            self._out.width = UNBOUNDED
        self._err = Console(stderr=True)

    def result(self, value: object, *shown: object) -> None:
        """Print the result of the command: ``value`` as JSON, or what is shown of it to people."""
        if self.as_json:
            print(json.dumps(value, indent=2, ensure_ascii=False))
            return
        for one in shown:
            # No line break is added, so that a path or an id can be copied.
            self._out.print(one, soft_wrap=not isinstance(one, Table), highlight=False)

    def note(self, text: str, style: str = "") -> None:
        """Tell people something that is not the result."""
        self._err.print(Text(text, style=style), soft_wrap=True)

    def progress(self) -> "TaskProgress":
        """Return a display of one task's progress."""
        return TaskProgress(self._err)


class TaskProgress:
    """How far a task is: a bar on a terminal; in a file, one line whenever its state changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""
        self._bar: TaskID | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[steps]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, task: Json) -> None:
        """Show a task as the service answers it."""
        done, steps = task["progress"]["step"], task["progress"]["steps"]
        text = f"{task['task_id']}: {state_of(task)}"
        running = task["status"] == "running"
        # A bar that only moves says that nothing is known of the time.
        self._update(text, steps if running and done else None, done, f"step {done} of {steps}" if running else "")

    def tell(self, text: str) -> None:
        """Show why it does not go on."""
        self._update(text)

    def _update(self, text: str, total: int | None = None, done: int = 0, steps: str = "") -> None:
        words = escape(_short(text))
        if self._bar is None:
            self._bar = self._progress.add_task(words, total=None, steps=steps)
        self._progress.update(self._bar, description=words, total=total, completed=done, steps=steps)
        self._line(text)

    def _line(self, text: str) -> None:
        if not self._console.is_terminal and text != self._last:
            self._console.print(Text(text), soft_wrap=True)
        self._last = text


def state_of(task: Json) -> str:
    """Return what a task does, in a few words."""
    done, steps = task["progress"]["step"], task["progress"]["steps"]
    words = str(task["status"])
    if task["status"] == "running" and not done:
        words = "running, text is encoded"
    elif task["status"] == "running" and done >= steps:
        words = "running, frames are decoded"
    return f"{words} (attempt {task['attempt']})" if task["attempt"] > 1 else words


def styled(status: str) -> Text:
    """Return a task's status in its colour."""
    return Text(status, style=STYLES.get(status, ""))


def task_table(tasks: Sequence[Json]) -> Table:
    """Return tasks as a table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("task", "status", "step", "age", "video", "prompt"):
        # On a narrow terminal the prompt is cut, and not the name, which the other commands need.
        table.add_column(name, no_wrap=name != "prompt")
    now = datetime.now(UTC)
    for task in tasks:
        progress = task["progress"]
        table.add_row(
            Text(task["task_id"]),
            styled(task["status"]),
            f"{progress['step']}/{progress['steps']}",
            spoken((now - datetime.fromisoformat(task["created_at"])).total_seconds()),
            f"{task['width']}x{task['height']}, {task['num_frames']} frames",
            Text(" ".join(task["prompt"].split()), no_wrap=True, overflow="ellipsis"),
        )
    return table


def task_details(task: Json) -> Table:
    """Return all that is known of a task, one row a field."""
    flat = {name: value for name, value in task.items() if name not in ("progress", "error", "url")}
    flat["progress"] = f"step {task['progress']['step']} of {task['progress']['steps']}"
    flat["error"] = f"{task['error']['code']}: {task['error']['message']}" if task["error"] else None
    if task["image"]:
        flat["image"] = "{format} of {width}x{height}, {bytes} bytes, SHA-256 {sha256}".format(**task["image"])
    first = ("task_id", "status", "progress", "attempt", "error", "created_at", "started_at", "finished_at")
    ordered = [name for name in first if name in flat] + [name for name in flat if name not in first]
    return fields_table({name: flat[name] for name in ordered if flat[name] is not None})


def fields_table(values: Mapping[str, object]) -> Table:
    """Return names and values, one row each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        style = STYLES.get(str(value), "") if name == "status" else ""
        table.add_row(name, Text(str(value), style=style))
    return table


def gang_table(gangs: Sequence[Json]) -> Table:
    """Return the gangs of a service, one row each."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("gang", "phase", "ranks", "nodes", "task", "message"):
        table.add_column(name, overflow="fold")
    for gang in gangs:
        style = "green" if gang["phase"] == "ready" else "yellow"
        table.add_row(
            Text(gang["id"]),
            Text(gang["phase"], style=style),
            f"{gang['have']} of {gang['wanted']}",
            Text(", ".join(node["ip"] for node in gang["nodes"])),
            Text(gang["task_id"] or "-"),
            Text(gang["message"]),
        )
    return table


def spoken(seconds: float) -> str:
    """Return a duration in its largest unit, such as ``40 s`` or ``12 min``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= NOTE_CHARACTERS else f"{words[:NOTE_CHARACTERS]}..."
