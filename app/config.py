"""What a user sets: the arguments of the Serve application, its user_config and its environment.

Each model checks itself on construction, and each error names the field. This module imports neither torch nor Ray:
serve_config and the operator read the same definitions.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from app.plan import MAX_RANKS

APPLICATION = "wan22"
IMPORT_PATH = "app.serve_app:app"

Device = Literal["cuda", "cpu"]
MAX_GANGS = 1024
RankCount = Annotated[int, Field(ge=1, le=MAX_RANKS)]
GangCount = Annotated[int, Field(ge=1, le=MAX_GANGS)]


class ConfigError(ValueError):
    """A setting is missing or wrong; the message names it and what is allowed."""


class StrictModel(BaseModel):
    """A model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelOptions(StrictModel):
    """How ranks run the model; the defaults change nothing of its results but the order of sums."""

    attention_backend: str = "auto"
    """Name of a diffusers attention backend, fa3 or fa4 (FlashAttention-3 and -4), or auto: the fastest backend that
    runs on this GPU, measured when a rank loads the model."""
    compile_blocks: Literal["auto", "always", "never"] = "auto"
    """Whether the transformer's blocks are compiled (torch.compile): for the model's default size before the gang is
    ready, for any other size when a task first asks for it. auto compiles on a GPU."""
    offload_weights: Literal["auto", "always", "never"] = "auto"
    """Whether the weights stay in host memory and the pipeline's components are loaded to the GPU one at a time. auto
    offloads if one GPU cannot hold all weights plus what the model's default video needs."""
    fp8_linear: bool = False
    """Whether linear layers compute in 8-bit floats: faster on Ada, Hopper and later, with some loss of quality."""
    step_cache: Literal["off", "taylorseer"] = "off"
    """taylorseer predicts most steps from earlier ones instead of computing them, with some loss of quality."""
    step_cache_interval: int = Field(3, ge=2, le=20)
    """Compute one step out of every ``step_cache_interval``; predict the rest."""
    step_cache_warm_up: int = Field(6, ge=2, le=100)
    """Steps that each expert computes before the first predicted one."""


class AppOptions(ModelOptions):
    """The options of one name in ``args``, in ``python -m serve_config`` and, in camelCase, in the chart's ``app``.

    A new option is a field here (or in ``ModelOptions``, if it is about running the model) and a key of ``app`` in the
    chart's values.yaml; ``python charts/generate.py`` writes everything between.
    """

    max_queued_tasks: int = Field(1000, ge=1)
    """Tasks that may wait; the next one is answered 429."""
    max_request_cost: float = Field(100, ge=1)
    """The most tokens x steps of a video, as a multiple of those of the model's default video; a request for more is
    answered 422. A bound for what no gang can finish: lower it if 100 default videos take longer than
    ``max_task_seconds``."""
    max_task_seconds: float = Field(7200, gt=0)
    """The longest task. A stopping VideoGenerator gets this long to finish the task that it runs."""
    lease_seconds: float = Field(15, gt=0)
    """How long a task stays assigned to its leader without a heartbeat."""
    step_timeout_seconds: float = Field(600, gt=0)
    """How long a gang may go without finishing a denoising step; then it counts as hung and is rebuilt.

    This also bounds what happens before and after the steps: text encoding, the first step and compiling a new size
    together; decoding all frames, encoding the mp4 and the upload together; and the rendezvous of the ranks. So it must
    be much longer than one step.
    """
    load_timeout_seconds: float = Field(3600, gt=0)
    """How long a rank may take to load the model, the download of a hub id included. The warm-up after it, which
    compiles the blocks and makes the model's default video once, gets the same time again."""
    rank_timeout_seconds: float = Field(60, gt=0)
    """How long a rank's process may leave a call unanswered; then it counts as hung."""
    resize_timeout_seconds: float = Field(300, gt=0)
    """How long a resize waits for its GPUs before it is undone and tried again later."""
    task_ttl_seconds: float = Field(7 * 86400, gt=0)
    """How long an ended task is kept; a succeeded one is kept as long as its video (``video_ttl_seconds``)."""
    video_ttl_seconds: float = Field(7 * 86400, ge=0)
    """How long a video is kept, and its task with it; then both are deleted. 0: the service never deletes a video, and
    forgets its task after ``task_ttl_seconds``."""
    cors_origins: str = Field("", pattern=r"^(\*|(https?://[^\s,/*]+)(,https?://[^\s,/*]+)*)?$")
    """Origins of web pages that may call the API from a browser, separated by commas (https://a.example,http://b:3000);
    * for any. Empty: no page of another origin may (no CORS headers)."""


class AppArgs(AppOptions):
    """Arguments of the application builder (``args`` in serveConfigV2, ``key=value`` of ``serve run``).

    A change of any of these restarts both deployments, so the worker count of a deployed app is in ``UserConfig``.
    """

    total_workers: RankCount | None = None
    """Ranks of one gang for a plain ``serve run``; ``user_config`` takes precedence, TOTAL_WORKERS is the default."""
    gangs: GangCount = 1
    """VideoGenerator replicas for a plain ``serve run``."""
    device: Device | None = None
    """What ranks compute on. The chart derives it from the pods' GPU limits; left out, it is detected."""
    attention_heads: int | None = Field(None, ge=1)
    """Attention heads of the model, if they are known beforehand; the model folder must then agree."""
    api_cpus: float = Field(0.25, gt=0)
    """Logical CPUs of an APIEntrypoint replica."""
    leader_cpus: float = Field(0.25, gt=0)
    """Logical CPUs of a VideoGenerator's leader process."""
    rank_cpus: float = Field(0.25, gt=0)
    """Logical CPUs of a rank, in addition to its GPU if it has one."""

    def model_options(self) -> ModelOptions:
        return ModelOptions(**{name: getattr(self, name) for name in ModelOptions.model_fields})


class UserConfig(StrictModel):
    """``user_config`` of VideoGenerator: the only setting that changes on a live gang."""

    total_workers: RankCount


class Environment(StrictModel):
    """The environment variables that every process of the app reads."""

    model_path: str | None = Field(None, alias="MODEL_PATH", min_length=1)
    storage_uri: str = Field("file:///tmp/wan22/videos", alias="STORAGE_URI", min_length=1)
    redis_url: SecretStr | None = Field(None, alias="REDIS_URL", min_length=1)
    redis_host: str | None = Field(None, alias="REDIS_HOST", min_length=1)
    redis_port: int = Field(6379, alias="REDIS_PORT", ge=1, le=65535)
    redis_username: str | None = Field(None, alias="REDIS_USERNAME", min_length=1)
    redis_password: SecretStr | None = Field(None, alias="REDIS_PASSWORD")
    redis_database: int = Field(0, alias="REDIS_DATABASE", ge=0)
    redis_tls: bool = Field(False, alias="REDIS_TLS")
    """Whether to connect with TLS; the server's certificate is checked."""
    redis_ca_file: str | None = Field(None, alias="REDIS_CA_FILE", min_length=1)
    """PEM file of the certificate authority that signed the server's certificate; None: the system's."""
    redis_prefix: str = Field("wan22:", alias="REDIS_PREFIX", pattern=r"^[A-Za-z0-9._:/-]{1,200}$")
    """Begins every key and channel in Redis. Each release on a shared server has its own."""
    release: str = Field("", alias="WAN22_RELEASE")
    """Name of the release that has the keys in Redis; another release of the same prefix is refused."""
    total_workers: RankCount = Field(2, alias="TOTAL_WORKERS")

    @model_validator(mode="after")
    def _one_redis(self) -> Self:
        if self.redis_url and self.redis_host:
            raise ValueError("REDIS_URL and REDIS_HOST are both set; unset one of them")
        for name in ("redis_username", "redis_database", "redis_tls", "redis_ca_file"):
            if name in self.model_fields_set and not self.redis_host:
                alias = type(self).model_fields[name].alias
                raise ValueError(f"{alias} is set without REDIS_HOST; a REDIS_URL names it in the URL itself")
        if self.redis_ca_file and not self.redis_tls:
            raise ValueError("REDIS_CA_FILE is set without REDIS_TLS; set REDIS_TLS to true, or unset REDIS_CA_FILE")
        return self

    def redis_address(self) -> str | None:
        """Return the URL of the Redis that the variables name, with its secrets; None if they name none."""
        if self.redis_url:
            return self.redis_url.get_secret_value()
        if not self.redis_host:
            return None
        user = quote(self.redis_username or "", safe="")
        password = quote(self.redis_password.get_secret_value() if self.redis_password else "", safe="")
        secret = f"{user}:{password}@" if user or password else ""
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        authority = f"?{urlencode({'ssl_ca_certs': self.redis_ca_file})}" if self.redis_ca_file else ""
        scheme = "rediss" if self.redis_tls else "redis"
        return f"{scheme}://{secret}{host}:{self.redis_port}/{self.redis_database}{authority}"

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
