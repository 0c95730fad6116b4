"""A YAML or JSON text as a tree of nodes that keep their positions, so that the text can be edited in place."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import yaml
from yaml.events import AliasEvent, Event
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

KeyPath = tuple[str | int, ...]

MOST_CHARACTERS = 64 * 1024
"""Longest text that is read. Reading 64 KiB and checking it takes about a second."""
DEEPEST = 64
"""Most levels of lists and mappings inside each other."""
MOST_VALUES = 4000
"""Most keys and values together."""
LONGEST_NUMBER = 100
"""Most characters of a number."""


_UNREADABLE_VALUE = (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""PyYAML raises not only its own errors for values such as 2026-99-99 or ``!!bool maybe``."""


class ServeConfigError(ValueError):
    """A serveConfigV2 cannot be read or edited; the message names the position and the remedy."""


class _BoundedLoader(yaml.SafeLoader):
    """Composes trees whose size is bounded by the size of their text: aliases and deep nesting are refused."""

    _depth = 0
    _values = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, AliasEvent):
            raise ServeConfigError(
                f"{position(event)}: found the alias *{event.anchor}, and aliases are not allowed, because a short "
                "text of them can stand for a document of any size; write its value out"
            )
        if self._depth >= DEEPEST:
            raise ServeConfigError(
                f"{position(event)}: lists and mappings are nested more than {DEEPEST} levels deep; nest them less"
            )
        self._values += 1
        if self._values > MOST_VALUES:
            raise ServeConfigError(
                f"{position(event)}: the text has more than {MOST_VALUES} keys and values; move large values into the "
                "image or a ConfigMap"
            )
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, ScalarNode) and node.tag.endswith((":int", ":float")) and len(node.value) > LONGEST_NUMBER:
            raise ServeConfigError(
                f"{position(node)}: found a number of {len(node.value)} characters, at most {LONGEST_NUMBER} are "
                "allowed; put it in quotes if it is a text"
            )
        return node


def compose(text: str) -> Node:
    """Return the tree of the only document in ``text``.

    Raises:
        ServeConfigError: a syntax error, an alias, too deep nesting (each with line and column), no document, more than
            one, or a text longer than ``MOST_CHARACTERS``.
    """
    if len(text) > MOST_CHARACTERS:
        raise ServeConfigError(
            f"the text has {len(text)} characters, at most {MOST_CHARACTERS} are allowed; move large values into the "
            "image or a ConfigMap"
        )
    try:
        documents = [node for node in yaml.compose_all(text, Loader=_BoundedLoader) if node is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unknown position"
        why = ", ".join(part for part in (error.context, error.problem) if part)
        raise ServeConfigError(f"{where}: not readable as YAML ({why}); correct the text there") from None
    except yaml.YAMLError as error:
        raise ServeConfigError(f"not readable as YAML ({error}); correct the text") from None
    if not documents:
        raise ServeConfigError("the text is empty; write one document with the key applications")
    if len(documents) > 1:
        raise ServeConfigError(
            f"{position(documents[1])}: a second document starts here, and KubeRay reads only the first; "
            "keep one document (list several applications under applications)"
        )
    return documents[0]


def position(node: Node | Event) -> str:
    """Return ``line L, column C`` of a node or an event, both counted from 1."""
    assert node.start_mark is not None
    return f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"


def plain(node: Node) -> object:
    """Return the plain Python value of a tree."""
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except _UNREADABLE_VALUE as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ServeConfigError(f"{position(node)}: {why}; write a plain value") from None
    finally:
        loader.dispose()


def get(node: Node | None, key: str) -> Node | None:
    """Return the value of ``key`` in a mapping node; None if the node is no mapping or lacks the key."""
    if isinstance(node, MappingNode):
        for name, value in node.value:
            if isinstance(name, ScalarNode) and name.value == key:
                return value  # type: ignore[no-any-return]
    return None


def items(node: Node | None) -> list[Node]:
    """Return the entries of a sequence node; an empty list if it is no sequence."""
    return list(node.value) if isinstance(node, SequenceNode) else []


def scalar(node: Node | None) -> object:
    """Return the value of a scalar node; None if it is absent or no scalar."""
    return plain(node) if isinstance(node, ScalarNode) else None


def walk(node: Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
    """Yield every node below ``node`` with its path, itself first.

    What an alias repeats is yielded once, so that a manifest of aliases takes no longer than its text.
    """
    seen: set[int] = set()
    waiting = [(path, node)]
    while waiting:
        path, node = waiting.pop()
        yield path, node
        if id(node) in seen:
            continue
        seen.add(id(node))
        below: list[tuple[KeyPath, Node]] = []
        if isinstance(node, MappingNode):
            below = [((*path, str(name.value)), value) for name, value in node.value]
        elif isinstance(node, SequenceNode):
            below = [((*path, index), value) for index, value in enumerate(node.value)]
        waiting += reversed(below)


@dataclass(frozen=True)
class Edit:
    """Replace ``text[start:end]`` by ``new``."""

    start: int
    end: int
    new: str


def apply(text: str, edits: list[Edit]) -> str:
    """Return ``text`` with all edits made; they must not overlap."""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.new + text[edit.end :]
    return text


def replace_value(text: str, mapping: MappingNode, key: str, value: object) -> Edit:
    """Return the edit that gives ``key``, which the mapping has, another value; comments after the old one stay.

    Raises:
        ServeConfigError: the old value is an alias, an anchor or has a tag, so that other places may depend on it.
    """
    name, old = next((name, old) for name, old in mapping.value if name.value == key)
    begin, end = old.start_mark.index, old.end_mark.index
    # The node of an alias is the one that it points to, further up.
    if begin < name.end_mark.index or text[begin : begin + 1] in ("&", "*", "!"):
        raise ServeConfigError(f"{position(name)}: {key} is an alias, anchor or tag; write its value out")
    written = text[begin:end].rstrip()
    if not written:
        return Edit(name.end_mark.index, end, f": {json.dumps(value)}")
    return Edit(begin, begin + len(written), json.dumps(value))


def insert_key(mapping: MappingNode, key: str, value: object) -> Edit:
    """Return the edit that puts ``key``, which the mapping lacks, in front of its other keys."""
    if mapping.flow_style:
        comma = ", " if mapping.value else ""
        return _insert(mapping.start_mark.index + 1, f"{json.dumps(key)}: {json.dumps(value)}{comma}")
    return _insert(mapping.start_mark.index, f"{key}: {json.dumps(value)}\n{' ' * mapping.start_mark.column}")


def insert_item(sequence: SequenceNode, item: object) -> Edit:
    """Return the edit that puts ``item`` in front of the other items of a sequence, which has some."""
    if sequence.flow_style:
        return _insert(sequence.start_mark.index + 1, f"{json.dumps(item)}, ")
    return _insert(sequence.start_mark.index, f"- {json.dumps(item)}\n{' ' * sequence.start_mark.column}")


def _insert(index: int, new: str) -> Edit:
    return Edit(index, index, new)
