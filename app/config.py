"""What a user sets: the arguments of the Serve application, its user_config and its environment.

Each is checked when it is made, and each error names the field. No torch and no Ray here: serve_config and the operator
read the same definitions.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from app.plan import MAX_RANKS

APPLICATION = "wan22"
IMPORT_PATH = "app.serve_app:app"

Device = Literal["cuda", "cpu"]
RankCount = Annotated[int, Field(ge=1, le=MAX_RANKS)]


class ConfigError(ValueError):
    """A setting is missing or wrong; the message names it and what is allowed."""


class StrictModel(BaseModel):
    """A model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelOptions(StrictModel):
    """How ranks run the model; the defaults change nothing of its results but the order of sums."""

    attention_backend: str = "auto"
    """A diffusers attention backend, fa3 or fa4 (FlashAttention-3 and -4), or auto: the fastest of those that run here,
    by a measurement at load."""
    compile_blocks: Literal["auto", "always", "never"] = "auto"
    """Compile the transformer's blocks (torch.compile): for the model's default size before the gang is ready, for any
    other when a task first has it; auto: on a GPU."""
    offload_weights: Literal["auto", "always", "never"] = "auto"
    """Keep the weights in the machine's memory, its components on the GPU in turn; auto: where the GPU does
    not hold them all and the model's default video besides."""
    fp8_linear: bool = False
    """Linear layers in 8-bit floats: faster on Ada, Hopper and later, with some loss of quality."""
    step_cache: Literal["off", "taylorseer"] = "off"
    """taylorseer: predict most steps from those before instead of computing them, with some loss of quality."""
    step_cache_interval: int = Field(3, ge=2, le=20)
    """Of so many steps one is computed."""
    step_cache_warm_up: int = Field(6, ge=2, le=100)
    """So many steps are computed before the first is predicted, for each expert."""


class AppArgs(ModelOptions):
    """Arguments of the application builder (``args`` in serveConfigV2, ``key=value`` of ``serve run``).

    A change of any of these restarts both deployments, so the worker count of a deployed app is in ``UserConfig``.
    """

    total_workers: RankCount | None = None
    """Ranks of one gang for a plain ``serve run``; ``user_config`` beats it, TOTAL_WORKERS comes after it."""
    gangs: int = Field(1, ge=1, le=1024)
    """VideoGenerator replicas for a plain ``serve run``."""
    device: Device | None = None
    """What a rank computes on. The chart renders it from the pods' GPU limits; detected only when left out."""
    attention_heads: int | None = Field(None, ge=1)
    """Attention heads of the model, where they are known beforehand; must then equal the model folder's."""
    api_cpus: float = Field(0.25, gt=0)
    """Logical CPUs of an APIEntrypoint replica."""
    leader_cpus: float = Field(0.25, gt=0)
    """Logical CPUs of a VideoGenerator's leader process."""
    rank_cpus: float = Field(0.25, gt=0)
    """Logical CPUs of a rank, beside its GPU if it has one."""
    max_queued_tasks: int = Field(1000, ge=1)
    """Tasks that may wait; the next one is answered 429."""
    max_task_seconds: float = Field(7200, gt=0)
    """The longest task. A stopping VideoGenerator is given this long to end the one it runs."""
    lease_seconds: float = Field(15, gt=0)
    """How long a task stays its leader's without a heartbeat."""
    step_timeout_seconds: float = Field(600, gt=0)
    """How long a gang may take for one denoising step or a rendezvous; then it counts as hung."""
    load_timeout_seconds: float = Field(3600, gt=0)
    """How long a rank may take to load the model, the download of a hub id included."""
    rank_timeout_seconds: float = Field(60, gt=0)
    """How long a rank's process may leave a question unanswered; then it counts as hung."""
    resize_timeout_seconds: float = Field(300, gt=0)
    """How long a resize waits for its GPUs before it is put back and tried again later."""
    task_ttl_seconds: float = Field(7 * 86400, gt=0)
    """How long an ended task is kept."""

    def model_options(self) -> ModelOptions:
        return ModelOptions(**{name: getattr(self, name) for name in ModelOptions.model_fields})


class UserConfig(StrictModel):
    """``user_config`` of VideoGenerator: the one thing that changes on a live gang."""

    total_workers: RankCount


class Environment(StrictModel):
    """What every process of the app reads from its environment."""

    model_path: str | None = Field(None, alias="MODEL_PATH", min_length=1)
    storage_uri: str = Field("file:///tmp/wan22/videos", alias="STORAGE_URI", min_length=1)
    redis_url: SecretStr | None = Field(None, alias="REDIS_URL", min_length=1)
    redis_host: str | None = Field(None, alias="REDIS_HOST", min_length=1)
    redis_port: int = Field(6379, alias="REDIS_PORT", ge=1, le=65535)
    redis_password: SecretStr | None = Field(None, alias="REDIS_PASSWORD")
    total_workers: RankCount = Field(2, alias="TOTAL_WORKERS")

    @model_validator(mode="after")
    def _one_redis(self) -> Self:
        if self.redis_url and self.redis_host:
            raise ValueError("REDIS_URL and REDIS_HOST are both set; unset one of them")
        return self

    @classmethod
    def names(cls) -> list[str]:
        """Return the variables that are read."""
        return [field.alias for field in cls.model_fields.values() if field.alias]

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables above from ``environ``; an empty one counts as unset.

        Raises:
            ConfigError: a variable has a value that is not allowed; every such variable is named.
        """
        try:
            return cls.model_validate({name: environ[name] for name in cls.names() if environ.get(name)})
        except ValidationError as error:
            raise ConfigError(f"environment: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Return ``field: what is wrong (found ...)`` for every field of a validation error, on one line."""
    lines = []
    for found in error.errors(include_url=False):
        place = ".".join(map(str, found["loc"]))
        value = "" if found["type"] == "missing" or not place else f" (found {found['input']!r})"
        lines.append(f"{place}: {found['msg']}{value}" if place else found["msg"])
    return "; ".join(lines)
