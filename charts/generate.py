"""Write every file that follows from app/config.py and values.yaml.

    python charts/generate.py            write them
    python charts/generate.py --check    fail if one is not up to date

From the options of the app (app/config.py): their lines in the template of serveConfigV2, the chart's copy of that
template and the example that holds a rendered one. From values.yaml, with the bounds of the options: the chart's JSON
schema and the table in its README.

In values.yaml, ``# --`` above a key starts its description, as in helm-docs, and ``# @schema {...}`` adds to the JSON
schema that follows from the option of the same meaning or else from the default's type; a key with children is an
object that allows no other keys. The template is copied, since a symbolic link does not survive every way in which
sources travel (archives, Windows checkouts).
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node

ROOT = Path(__file__).resolve().parents[1]
# This checkout's packages, whichever are installed.
sys.path.insert(0, str(ROOT))

from serve_config.__main__ import read_values  # noqa: E402
from serve_config.template import ARGUMENTS, fill, marker  # noqa: E402
from serve_config.values import ServeValues, chart_value  # noqa: E402

CHART = ROOT / "charts" / "wan22-rayservice"
TEMPLATE = ROOT / "serve_config" / "serve-config.json.tmpl"
EXAMPLE = ROOT / "examples" / "rayservice-standalone.yaml"
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
BEGIN, END = "<!-- values: begin (charts/generate.py) -->", "<!-- values: end -->"
REMOVED = CHART / "files" / "removed-values.yaml"
NO_OPTIONS = {"app.deploy"}
"""Keys of ``app`` that are the chart's own, not options of the app."""


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
    # A chart that has this one as a dependency switches it by such a value (`condition`), and Helm passes that on.
    top["properties"]["enabled"] = {"type": "boolean"}
    for value in values:
        place = top
        for name in value.path[:-1]:
            place = place["properties"][name]
        if value.described:
            kind = {"type": TYPES.get(type(value.default), "null")}
            found = {"description": value.description} | kind | _of_option(".".join(value.path)) | value.schema
            if "enum" in found:
                del found["type"]
        else:
            found = _object()
        place["properties"][value.path[-1]] = found
    for path, successor in yaml.safe_load(REMOVED.read_text(encoding="utf-8")).items():
        *above, name = path.split(".")
        place = top
        for part in above:
            place = place["properties"][part]
        # The chart refuses it in words; the schema could only call it unknown.
        place["properties"][name] = {"description": f"Removed: {successor} takes its place."}
    return top


def _object() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def table(values: list[Value]) -> str:
    """Return the Markdown table of the values that have a description."""
    rows = ["| Value | Default | Meaning |", "|---|---|---|"]
    for value in values:
        if value.described:
            default = json.dumps(value.default).replace("|", "\\|")
            rows.append(f"| `{'.'.join(value.path)}` | `{default}` | {value.description.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def _options() -> dict[str, str]:
    """Return the fields of ``ServeValues`` by the chart's value of the same meaning."""
    return {chart_value(field): field for field in ServeValues.model_fields}


def _of_option(value: str) -> dict[str, Any]:
    """Return the JSON schema of the option that a value sets; nothing if it sets none, or one of several types."""
    field = _options().get(value)
    if field is None:
        return {}
    found = ServeValues.model_json_schema()["properties"][field]
    if "anyOf" in found or "$ref" in found:
        return {}
    return {key: rule for key, rule in found.items() if key not in ("title", "default", "description")}


def check_options(values: list[Value]) -> None:
    """Hold the options of the app and the chart's values together.

    Raises:
        ValueError: an option has no value, a value under ``app`` has no option, or their defaults differ.
    """
    options = _options()
    defaults = {".".join(value.path): value.default for value in values if value.described}
    if missing := sorted(options.keys() - defaults):
        raise ValueError(
            f"values.yaml: {missing[0]} is missing, the value of the option {options[missing[0]]}; "
            "add it with its default and a comment `# -- ...`"
        )
    if extra := sorted(key for key in defaults.keys() - options - NO_OPTIONS if key.startswith("app.")):
        raise ValueError(
            f"values.yaml: {extra[0]} is no option of the app; add a field to AppOptions in app/config.py, or remove it"
        )
    for value, field in options.items():
        own, other = defaults[value], ServeValues.model_fields[field].default
        if own != other and (own, other) != ("", None):
            raise ValueError(
                f"values.yaml: the default of {value} is {own!r}, that of the option {field} is {other!r}; "
                "make them equal (app/config.py)"
            )


def template_text() -> str:
    """Return the template of serveConfigV2 with a line for each argument of the app."""
    lines = ",\n".join(f'        "{argument}": @{{{marker(argument)}}}@' for argument in ARGUMENTS)
    return _replaced(TEMPLATE, r'(?<="args": \{\n)(?s:.*?)(?=\n      \})', lines)


def example_text(template: str) -> str:
    """Return the example with the serveConfigV2 that the command in its comment prints."""
    head = r"  # From: python -m serve_config (.*)\n  serveConfigV2: \|\n"
    found = re.search(head, EXAMPLE.read_text(encoding="utf-8"))
    if not found:
        raise ValueError(f"{EXAMPLE}: add the comment `# From: python -m serve_config ...` above serveConfigV2: |")
    rendered = fill(template, read_values(shlex.split(found[1])))
    block = "".join(f"    {line}\n" for line in rendered.splitlines())
    return _replaced(EXAMPLE, rf"(?<={re.escape(found[0])})(    .*\n)*", block)


def _replaced(path: Path, pattern: str, new: str) -> str:
    """Return a file's text with the one part that ``pattern`` matches replaced by ``new``."""
    text, count = re.subn(pattern, lambda _: new, path.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{path}: found {count} places for the generated part, need one ({pattern})")
    return text


def generated() -> dict[Path, str]:
    """Return the generated files with the text that they should have.

    Raises:
        ValueError: a source is wrong; the message names it, the place and the remedy.
    """
    values = read((CHART / "values.yaml").read_text(encoding="utf-8"))
    check_options(values)
    template = template_text()
    readme = CHART / "README.md"
    return {
        TEMPLATE: template,
        CHART / "files" / TEMPLATE.name: template,
        EXAMPLE: example_text(template),
        CHART / "values.schema.json": json.dumps(schema(values, f"Values of {CHART.name}"), indent=2) + "\n",
        readme: _replaced(readme, rf"(?<={re.escape(BEGIN)}\n)(?s:.*)(?=\n{re.escape(END)})", table(values)),
    }


def main(arguments: list[str] | None = None) -> int:
    """Write or check the generated files; return the exit code."""
    parser = argparse.ArgumentParser(prog="python charts/generate.py", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    options = parser.parse_args(arguments)
    try:
        files = generated()
    except ValueError as error:
        print(error)
        return 1
    stale = []
    for path, text in files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not options.check:
                path.write_text(text, encoding="utf-8")
    for path in stale:
        done = "not up to date; run python charts/generate.py" if options.check else "written"
        print(f"{path.relative_to(ROOT)}: {done}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
