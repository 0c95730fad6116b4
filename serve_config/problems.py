"""Problems of a serveConfigV2, each with its position and a remedy."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from yaml.nodes import Node

from serve_config.document import KeyPath, walk


@dataclass(frozen=True)
class Problem:
    """One problem. Lines and columns count from 1; both are 0 if the position is unknown."""

    where: str
    message: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        position = [f"line {self.line}, column {self.column}"] if self.line else []
        return ": ".join([*position, *filter(None, [self.where]), self.message])

    def moved(self, lines: int, columns: int) -> "Problem":
        """Return the problem shifted by ``lines`` and ``columns``, for a text embedded in a manifest."""
        return replace(self, line=self.line + lines, column=self.column + columns) if self.line else self


class Positions:
    """The positions of a document's values."""

    def __init__(self, root: Node) -> None:
        self._nodes = dict(walk(root))

    def problem(self, path: Iterable[str | int], message: str) -> Problem:
        """Return a problem at ``path``, or at the nearest value above it that the document has."""
        path = tuple(path)
        near: KeyPath = path
        while near not in self._nodes:
            near = near[:-1]
        mark = self._nodes[near].start_mark
        return Problem(written(path), message, mark.line + 1, mark.column + 1)


def written(path: Iterable[str | int]) -> str:
    """Return a path in dotted notation: ``applications[0].name``."""
    words = ""
    for step in path:
        words += f"[{step}]" if isinstance(step, int) else f".{step}" if words else str(step)
    return words
