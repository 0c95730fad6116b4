"""Builds the Serve application; Kubernetes runs it as ``serve run --name wan22 app.serve_app:app`` does."""

import os

from ray import serve
from ray.serve import Application

from app import runtime
from app.config import AppArgs, Environment
from app.gang.leader import VideoGenerator
from app.http.entrypoint import APIEntrypoint

_SHUTDOWN_MARGIN_SECONDS = 60


# No postponed annotations in this file: Serve reads the type of ``args`` from the annotation to validate them.
def app(args: AppArgs) -> Application:
    """Build the application from its arguments and the environment.

    Raises:
        ConfigError: a variable of the environment has a value that is not allowed.
    """
    environment = Environment.read(os.environ)
    device = args.device or runtime.device()
    total_workers = args.total_workers or environment.total_workers
    args = args.model_copy(update={"device": device, "total_workers": total_workers})
    # One bundle for the leader and rank 0, so that a leader is always on a node of its own gang.
    bundle = {"CPU": args.leader_cpus + args.rank_cpus} | ({"GPU": 1.0} if device == "cuda" else {})
    generator = serve.deployment(VideoGenerator).options(
        num_replicas=args.gangs,
        max_ongoing_requests=1,
        user_config={"total_workers": total_workers},
        ray_actor_options={"num_cpus": args.leader_cpus, "num_gpus": 0},
        placement_group_bundles=[bundle],
        placement_group_strategy="PACK",
        health_check_period_s=2,
        health_check_timeout_s=30,
        # A stopping leader first finishes the task that it runs, so this must be longer than the longest task.
        graceful_shutdown_timeout_s=args.max_task_seconds + _SHUTDOWN_MARGIN_SECONDS,
        graceful_shutdown_wait_loop_s=1,
    )
    entrypoint = serve.deployment(APIEntrypoint).options(
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": args.api_cpus, "num_gpus": 0},
        health_check_period_s=5,
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=20,
    )
    return entrypoint.bind(generator.bind(args), args)
