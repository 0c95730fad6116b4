"""Reading and setting the counts in a serveConfigV2 that may be anybody's: only the counts change, the rest stays."""

import json
from dataclasses import dataclass

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from app.config import APPLICATION, IMPORT_PATH
from serve_config.document import Edit, ServeConfigError, apply, compose, get, items, position, scalar

API = "APIEntrypoint"
GENERATOR = "VideoGenerator"


@dataclass(frozen=True)
class Counts:
    """The counts that a serveConfigV2 holds; None where it does not say."""

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
    """Return ``text`` with these counts, everything else as its author wrote it; equal counts give the same string.

    Raises:
        ServeConfigError: it is not readable, holds no application of this project, or writes a count by an alias.
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
    """Return ``text`` with an entry for deployment ``name``, added where there is none."""
    application = _application(compose(text))
    if _deployment(application, name) is not None:
        return text
    entry = {"name": name} | ({"max_replicas_per_node": 1} if name == API else {})
    deployments = get(application, "deployments")
    if not isinstance(deployments, SequenceNode) or not deployments.value:
        return apply(text, _set(text, application, "deployments", [entry]))
    start = deployments.start_mark
    if deployments.flow_style:
        return apply(text, [Edit(start.index + 1, start.index + 1, f"{json.dumps(entry)}, ")])
    indent = " " * start.column
    return apply(text, [Edit(start.index, start.index, f"- {json.dumps(entry)}\n{indent}")])


def _set(text: str, mapping: Node | None, key: str, value: object) -> list[Edit]:
    """Return the edit that makes ``key`` of a mapping ``value``; none where it already is."""
    assert isinstance(mapping, MappingNode)
    start = mapping.start_mark
    for name, node in mapping.value:
        if isinstance(name, ScalarNode) and name.value == key:
            if node.start_mark.index < name.end_mark.index or text[node.start_mark.index] in "&*!":
                raise ServeConfigError(f"{position(name)}: {key} is an alias, anchor or tag; write its value out")
            if _whole(node) == value:
                return []
            begin, end = node.start_mark.index, node.end_mark.index
            if begin == end or not text[begin:end].strip():
                return [Edit(name.end_mark.index, end, f": {json.dumps(value)}")]
            return [Edit(begin, begin + len(text[begin:end].rstrip()), json.dumps(value))]
    written = json.dumps(value)
    if mapping.flow_style:
        comma = ", " if mapping.value else ""
        return [Edit(start.index + 1, start.index + 1, f"{json.dumps(key)}: {written}{comma}")]
    return [Edit(start.index, start.index, f"{key}: {written}\n{' ' * start.column}")]


def _whole(node: Node | None) -> int | None:
    value = scalar(node)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
