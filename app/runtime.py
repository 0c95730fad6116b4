"""What depends on the place where this process runs: the cluster's name, its device, its Redis and its model.

On a laptop everything has a default. In Kubernetes nothing has: a default that works there by accident loses tasks.
"""

import asyncio
import os
from pathlib import Path

import ray

from app.config import AppArgs, ConfigError, Device, Environment
from app.tasks.embedded import EmbeddedRedis
from app.tasks.store import TaskStore

_NAMESPACE = "wan22"


def in_kubernetes() -> bool:
    """Return whether this process runs in a pod."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def cluster() -> str:
    """Return the name of this Ray cluster: KubeRay's, which differs between releases, or Ray's session."""
    name = os.environ.get("RAY_CLUSTER_NAME")
    if name:
        return f"{os.environ.get('RAY_CLUSTER_NAMESPACE', 'default')}/{name}"
    return str(ray.get_runtime_context().get_session_name())


def device() -> Device:
    """Return the device of ranks if none is configured: cuda if this Ray cluster has a GPU now, else cpu."""
    return "cuda" if ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0 else "cpu"


def model_path(environment: Environment) -> str:
    """Return MODEL_PATH; if it is unset on a laptop, the tiny model that this package ships.

    Raises:
        ConfigError: in Kubernetes, if it is unset.
    """
    if environment.model_path:
        return environment.model_path
    if in_kubernetes():
        raise ConfigError(
            "MODEL_PATH is not set; set it to a diffusers Wan folder in the pods or to a hub id such as "
            "Wan-AI/Wan2.2-T2V-A14B-Diffusers (chart value model.path)"
        )
    return str(local_model())


def local_model() -> Path:
    """Return the folder of the tiny model that this package ships; it draws coloured shapes."""
    return Path(__file__).with_name("models") / "tiny-wan"


def task_store(environment: Environment, args: AppArgs) -> TaskStore:
    """Return the task store on the Redis of ``redis_url``, with the limits of ``args``.

    Raises:
        ConfigError: as ``redis_url``.
    """
    return TaskStore.connect(
        redis_url(environment),
        lease_seconds=args.lease_seconds,
        task_ttl_seconds=args.task_ttl_seconds,
        video_ttl_seconds=args.video_ttl_seconds,
        max_queued_tasks=args.max_queued_tasks,
        prefix=environment.redis_prefix,
        release=environment.release,
    )


def redis_url(environment: Environment) -> str:
    """Return the URL of the Redis in the environment; if there is none on a laptop, of an embedded server.

    Raises:
        ConfigError: in Kubernetes, if the environment names none.
    """
    if url := environment.redis_address():
        return url
    if in_kubernetes():
        raise ConfigError("no Redis is configured: set REDIS_URL, or REDIS_HOST and REDIS_PORT (chart values redis.*)")
    actor = ray.remote(_EmbeddedRedisActor).options(
        name="embedded-redis", namespace=_NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0
    )
    return str(ray.get(actor.remote().url.remote()))


class _EmbeddedRedisActor:
    """Holds the embedded server, so that the server lives as long as the Ray cluster."""

    def __init__(self) -> None:
        self._server = EmbeddedRedis().start()

    async def url(self) -> str:
        await asyncio.sleep(0)
        return self._server.url
