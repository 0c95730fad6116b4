"""Write the chart's generated files: from values.yaml its schema and README table, from serve_config/ the template.

    python charts/generate.py            write them
    python charts/generate.py --check    fail if they are not up to date

In values.yaml, ``# --`` above a key starts its description, and ``# @schema {...}`` adds to the JSON schema that its
default's type gives; a key with children is an object that allows no other keys. The template of serveConfigV2 is
copied, since a symbolic link does not survive every way in which sources travel (archives, Windows checkouts).
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node

CHART = Path(__file__).with_name("wan22-rayservice")
TEMPLATE = Path(__file__).parents[1] / "serve_config" / "serve-config.json.tmpl"
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
BEGIN, END = "<!-- values: begin (charts/generate.py) -->", "<!-- values: end -->"


@dataclass(frozen=True)
class Value:
    """A key of values.yaml with what its comment says."""

    path: tuple[str, ...]
    default: Any
    description: str
    schema: dict[str, Any]
    described: bool


def read(text: str) -> list[Value]:
    """Return the keys of a values.yaml in their order, the objects above them included.

    Raises:
        ValueError: a key has neither a description nor children.
    """
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, MappingNode)
    return list(_values(root, (), lines))


def _values(mapping: MappingNode, above: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, node in mapping.value:
        path = (*above, key.value)
        description, schema = _comment(lines, key.start_mark.line)
        described = bool(description)
        if not described and not (isinstance(node, MappingNode) and node.value):
            raise ValueError(f"values.yaml line {key.start_mark.line + 1}: {'.'.join(path)} needs a comment `# -- ...`")
        yield Value(path, _plain(node), description, schema, described)
        if isinstance(node, MappingNode) and not described:
            yield from _values(node, path, lines)


def _comment(lines: list[str], row: int) -> tuple[str, dict[str, Any]]:
    """Return the description and the schema in the comment lines just above a key."""
    block: list[str] = []
    while row and lines[row - 1].lstrip().startswith("#"):
        row -= 1
        block.insert(0, lines[row].lstrip()[1:].strip())
    starts = [index for index, line in enumerate(block) if line.startswith("-- ")]
    if not starts:
        return "", {}
    block = block[starts[-1] :]
    words = [line.removeprefix("-- ") for line in block if not line.startswith("@schema ")]
    schemas = [yaml.safe_load(line.removeprefix("@schema ")) for line in block if line.startswith("@schema ")]
    return " ".join(words), {key: value for schema in schemas for key, value in schema.items()}


def _plain(node: Node) -> Any:
    return yaml.safe_load(yaml.serialize(node))


def schema(values: list[Value], title: str) -> dict[str, Any]:
    """Return the JSON schema of the values: nothing is allowed that they do not name."""
    top: dict[str, Any] = {"$schema": "http://json-schema.org/draft-07/schema#", "title": title} | _object()
    # Helm passes this to every chart, and subcharts share it.
    top["properties"]["global"] = {"type": "object"}
    for value in values:
        place = top
        for name in value.path[:-1]:
            place = place["properties"][name]
        if value.described:
            found = {"description": value.description, "type": TYPES.get(type(value.default), "null")} | value.schema
            if "enum" in found:
                del found["type"]
        else:
            found = _object()
        place["properties"][value.path[-1]] = found
    return top


def _object() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def table(values: list[Value]) -> str:
    """Return the Markdown table of the values that have a description."""
    rows = ["| Value | Default | What it is |", "|---|---|---|"]
    for value in values:
        if value.described:
            default = json.dumps(value.default).replace("|", "\\|")
            rows.append(f"| `{'.'.join(value.path)}` | `{default}` | {value.description.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def generated(chart: Path) -> dict[Path, str]:
    """Return the chart's generated files with the text that they should have."""
    values = read((chart / "values.yaml").read_text(encoding="utf-8"))
    readme = chart / "README.md"
    text = readme.read_text(encoding="utf-8")
    if not re.search(f"{re.escape(BEGIN)}.*{re.escape(END)}", text, re.DOTALL):
        raise ValueError(f"{readme}: has no place for the table; add the lines {BEGIN} and {END}")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return {
        chart / "values.schema.json": json.dumps(schema(values, f"Values of {chart.name}"), indent=2) + "\n",
        chart / "files" / TEMPLATE.name: TEMPLATE.read_text(encoding="utf-8"),
        readme: f"{before}{BEGIN}\n{table(values)}\n{END}{after}",
    }


def main(arguments: list[str] | None = None) -> int:
    """Write or check the generated files; return the exit code."""
    parser = argparse.ArgumentParser(prog="python charts/generate.py", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    parser.add_argument("chart", nargs="?", type=Path, default=CHART)
    options = parser.parse_args(arguments)
    stale = []
    for path, text in generated(options.chart).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not options.check:
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path}: {'not up to date; run python charts/generate.py' if options.check else 'written'}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
