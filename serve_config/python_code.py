"""Detects inline Python in a serveConfigV2 and says to use an import path."""

import re
from collections.abc import Iterator

from yaml.nodes import Node, ScalarNode

from app.config import IMPORT_PATH
from serve_config.document import KeyPath, walk

_CODE = re.compile(
    r"^[ \t]*(?:[\w-]+:[ \t]*[|>][-+]?[ \t]*\n[ \t]*)?"
    r"(?:import \w[\w., ]*(?: as \w+)?$|from [\w.]+ import |@serve\.|@ray\.|(?:async )?def \w+\(|class \w+[(:]"
    r"|app *= *\w[\w.]*\.bind\()",
    re.MULTILINE,
)
REMEDY = (
    "serveConfigV2 cannot hold Python: put the code into a module of the image and write its name, "
    f"import_path: {IMPORT_PATH} (module:variable)"
)


def line(text: str) -> int | None:
    """Return the first line (from 1) of ``text`` that looks like Python code; None if no line does."""
    match = _CODE.search(text)
    return text.count("\n", 0, match.end()) + 1 if match else None


def values(root: Node) -> Iterator[tuple[KeyPath, str]]:
    """Yield the path of every value that holds Python code."""
    for path, node in walk(root):
        if isinstance(node, ScalarNode) and line(str(node.value)) is not None:
            yield path, f"holds Python code; {REMEDY}"
