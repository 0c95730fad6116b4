"""Reads and sets the counts in any serveConfigV2; everything else in its text stays as its author wrote it."""

from dataclasses import dataclass

from yaml.nodes import MappingNode, Node, SequenceNode

from app.config import APPLICATION, IMPORT_PATH
from serve_config.document import (
    Edit,
    ServeConfigError,
    apply,
    compose,
    get,
    insert_item,
    insert_key,
    items,
    replace_value,
    scalar,
)

API = "APIEntrypoint"
GENERATOR = "VideoGenerator"


@dataclass(frozen=True)
class Counts:
    """The counts that a serveConfigV2 holds; None for a count that it does not set."""

    total_workers: int | None
    gangs: int | None
    pods: int | None
    attention_heads: int | None


def read_counts(text: str) -> Counts:
    """Return the counts in ``text``.

    Raises:
        ServeConfigError: it is not readable, or holds no application of this project.
    """
    application = _application(compose(text))
    generator = _deployment(application, GENERATOR)
    return Counts(
        total_workers=_whole(get(get(generator, "user_config"), "total_workers")),
        gangs=_whole(get(generator, "num_replicas")),
        pods=_whole(get(_deployment(application, API), "num_replicas")),
        attention_heads=_whole(get(get(application, "args"), "attention_heads")),
    )


def with_counts(text: str, *, total_workers: int, gangs: int, pods: int) -> str:
    """Return ``text`` with these counts, and nothing else changed; equal counts return the same string.

    Raises:
        ServeConfigError: it is not readable, holds no application of this project, or a count in it is an alias.
    """
    for name in (API, GENERATOR):
        text = _with_deployment(text, name)
    generator, api = (_deployment(_application(compose(text)), name) for name in (GENERATOR, API))
    edits = [*_set(text, generator, "num_replicas", gangs), *_set(text, api, "num_replicas", pods)]
    user_config = get(generator, "user_config")
    if isinstance(user_config, MappingNode):
        edits += _set(text, user_config, "total_workers", total_workers)
    else:
        edits += _set(text, generator, "user_config", {"total_workers": total_workers})
    return apply(text, edits)


def _application(root: Node) -> MappingNode:
    """Return our application: the one named ``wan22``, else the only one with our import path."""
    applications = [node for node in items(get(root, "applications")) if isinstance(node, MappingNode)]
    named = [node for node in applications if scalar(get(node, "name")) == APPLICATION]
    ours = named or [node for node in applications if scalar(get(node, "import_path")) == IMPORT_PATH]
    if len(ours) != 1:
        raise ServeConfigError(
            f"applications: found {len(ours)} applications named {APPLICATION} or with import_path {IMPORT_PATH}, "
            f"need one; write {{name: {APPLICATION}, route_prefix: /, import_path: {IMPORT_PATH}}}"
        )
    return ours[0]


def _deployment(application: Node | None, name: str) -> Node | None:
    found = (node for node in items(get(application, "deployments")) if scalar(get(node, "name")) == name)
    return next(found, None)


def _with_deployment(text: str, name: str) -> str:
    """Return ``text`` with an entry for deployment ``name``, which is added if it is missing."""
    application = _application(compose(text))
    if _deployment(application, name) is not None:
        return text
    entry = {"name": name} | ({"max_replicas_per_node": 1} if name == API else {})
    deployments = get(application, "deployments")
    if isinstance(deployments, SequenceNode) and deployments.value:
        return apply(text, [insert_item(deployments, entry)])
    return apply(text, _set(text, application, "deployments", [entry]))


def _set(text: str, mapping: Node | None, key: str, value: object) -> list[Edit]:
    """Return the edit that sets ``key`` of a mapping to ``value``; none if it has that value already."""
    assert isinstance(mapping, MappingNode)
    old = get(mapping, key)
    if old is None:
        return [insert_key(mapping, key, value)]
    edit = replace_value(text, mapping, key, value)
    return [] if _whole(old) == value else [edit]


def _whole(node: Node | None) -> int | None:
    value = scalar(node)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
