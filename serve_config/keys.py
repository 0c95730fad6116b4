"""The keys that Ray Serve 2.60 reads in serveConfigV2. Ray drops others silently. A test holds them equal to Ray's."""

import difflib
from collections.abc import Iterator

from yaml.nodes import MappingNode, Node, SequenceNode

from serve_config.document import KeyPath, position

Keys = dict[str, "Keys | None"]
"""Known keys with the keys below them; None if anything is allowed. A list of mappings is written like one of them."""

LOGGING: Keys = dict.fromkeys(
    ["additional_log_standard_attrs", "enable_access_log", "encoding", "log_level", "logs_dir"]
)
ACTOR: Keys = dict.fromkeys(
    [
        "accelerator_type",
        "fallback_strategy",
        "label_selector",
        "memory",
        "num_cpus",
        "num_gpus",
        "resources",
        "runtime_env",
    ]
)
DEPLOYMENT: Keys = dict.fromkeys(
    [
        "autoscaling_config",
        "backpressure_config",
        "deployment_actors",
        "gang_scheduling_config",
        "graceful_shutdown_timeout_s",
        "graceful_shutdown_wait_loop_s",
        "health_check_period_s",
        "health_check_timeout_s",
        "max_ongoing_requests",
        "max_queued_requests",
        "max_replicas_per_node",
        "max_surge_percent",
        "name",
        "num_replicas",
        "placement_group_bundle_label_selector",
        "placement_group_bundles",
        "placement_group_strategy",
        "request_router_config",
        "rolling_update_percentage",
        "user_config",
    ]
) | {"logging_config": LOGGING, "ray_actor_options": ACTOR}
APPLICATION: Keys = dict.fromkeys(
    [
        "args",
        "autoscaling_policy",
        "external_scaler_enabled",
        "host",
        "import_path",
        "name",
        "port",
        "route_prefix",
        "runtime_env",
    ]
) | {"deployments": DEPLOYMENT, "logging_config": LOGGING}
HTTP: Keys = dict.fromkeys(
    [
        "host",
        "keep_alive_timeout_s",
        "port",
        "request_timeout_s",
        "root_path",
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_keyfile_password",
    ]
)
GRPC: Keys = dict.fromkeys(["enable_reflection", "grpc_servicer_functions", "port", "request_timeout_s"])
TRACING: Keys = dict.fromkeys(["enabled", "exporter_import_path", "sampling_ratio"])
TOP: Keys = dict.fromkeys(["controller_options", "proxy_location", "target_capacity"]) | {
    "applications": APPLICATION,
    "grpc_options": GRPC,
    "http_options": HTTP,
    "logging_config": LOGGING,
    "tracing_config": TRACING,
}


def unknown(node: Node, known: Keys | None = TOP, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield the path of every key that Ray does not know, with what to write instead."""
    if known is None:
        return
    if isinstance(node, SequenceNode):
        for index, entry in enumerate(node.value):
            yield from unknown(entry, known, (*path, index))
    elif isinstance(node, MappingNode):
        for name, value in node.value:
            key = str(name.value)
            if key in known:
                yield from unknown(value, known[key], (*path, key))
                continue
            near = difflib.get_close_matches(key, known, 1)
            remedy = f"write {near[0]}" if near else f"remove it; known here are {', '.join(sorted(known))}"
            yield (*path, key), f"unknown key, which Ray ignores; {remedy}"


def repeated(node: Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield the path of every key that its mapping has twice; KubeRay would take the last one silently."""
    if isinstance(node, SequenceNode):
        for index, entry in enumerate(node.value):
            yield from repeated(entry, (*path, index))
    elif isinstance(node, MappingNode):
        seen: dict[str, Node] = {}
        for name, value in node.value:
            key = str(name.value)
            if key in seen:
                yield (
                    (*path, key),
                    f"is written twice, at {position(seen[key])} and {position(name)}, and parsers differ in which one "
                    "they keep; remove one",
                )
            seen[key] = name
            yield from repeated(value, (*path, key))
