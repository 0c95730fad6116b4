"""Complete records of the kinds that cross a process, for tests and benchmarks that care about one field."""

from typing import Any

from app.tasks.gang_state import GangPhase, GangState
from app.tasks.task_config import TaskConfig


def task_config(**changes: Any) -> TaskConfig:
    """Return a small request without an image."""
    fields: dict[str, Any] = {
        "prompt": "a red circle moves right",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "num_frames": 9,
        "num_inference_steps": 4,
        "guidance_scale": 4.0,
        "guidance_scale_2": None,
        "seed": 1,
        "fps": 8,
        "image": None,
    }
    return TaskConfig(**fields | changes)


def gang_state(gang_id: str, cluster: str, **changes: Any) -> GangState:
    """Return the state of an idle gang with one rank of one wanted."""
    fields: dict[str, Any] = {
        "id": gang_id,
        "cluster": cluster,
        "pid": 1,
        "task_id": None,
        "wanted": 1,
        "have": 1,
        "phase": GangPhase.READY,
        "message": "",
        "nodes": [],
    }
    return GangState(**fields | changes)
