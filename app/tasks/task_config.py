"""The request in the form in which it is stored and run: every field has a value that fits the model.

``GenerateRequest.complete`` makes it, Redis keeps it as JSON, and the ranks read it.
"""

from pydantic import BaseModel, ConfigDict


class TaskImage(BaseModel):
    """The image from which a video begins: what is known of it, and the path of its file in the storage."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    format: str
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    bytes: int
    path: str


class TaskConfig(BaseModel):
    """One request, complete. The bounds of each field are checked before, by ``GenerateRequest``.

    A field that this version does not know is kept, since a task may have been accepted by a newer release. A leader
    refuses to run such a task rather than to ignore what the client asked for.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    prompt: str
    negative_prompt: str
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    guidance_scale_2: float | None
    """Guidance of the low-noise expert; None if the model has one expert, or to use ``guidance_scale`` for both."""
    seed: int
    fps: int
    flow_shift: float | None = None
    """The scheduler's shift of noise levels; None, as in tasks of older releases, uses its own."""
    image: TaskImage | None

    @property
    def guided(self) -> bool:
        """Whether each step computes an unconditional branch, too."""
        return self.guidance_scale > 1

    @property
    def unknown_fields(self) -> list[str]:
        """The names of the fields that this version does not know."""
        return sorted(self.model_extra or ())
