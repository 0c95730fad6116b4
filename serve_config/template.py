"""The one text of serveConfigV2 (serve-config.json.tmpl), filled in here and in the chart.

Its only syntax is a marker per JSON value, ``@{name}@``. The marker of an application's argument is ``@{app.<name>}@``,
with the name in camelCase as in the chart's values: the marker of ``step_cache`` is ``@{app.stepCache}@``.
``charts/generate.py`` writes the lines of the arguments.
"""

import json
import re
from functools import cache
from pathlib import Path

from pydantic.alias_generators import to_camel

from app.config import AppArgs
from serve_config.values import ServeValues

TEMPLATE = Path(__file__).with_name("serve-config.json.tmpl")
ARGUMENTS = sorted(AppArgs.model_fields.keys() - {"total_workers", "gangs"})
"""The rendered arguments. The counts are not among them, since a change of any argument restarts the application."""


def marker(argument: str) -> str:
    """Return the name of an argument's marker."""
    return f"app.{to_camel(argument)}"


def render(values: ServeValues) -> str:
    """Return serveConfigV2 for ``values``: JSON with sorted keys, which every YAML parser reads the same."""
    return fill(_template(), values)


def fill(template: str, values: ServeValues) -> str:
    """Return ``template`` with every marker replaced by its JSON value.

    Raises:
        KeyError: the template has a marker that nothing fills.
    """
    args = values.app_args().model_dump()
    filled = {marker(argument): args[argument] for argument in ARGUMENTS}
    filled |= {"totalWorkers": values.total_workers, "gangs": values.gangs, "pods": values.pods}
    return re.sub(r"@\{([\w.]+)\}@", lambda found: _json(filled[found[1]]), template)


def _json(value: object) -> str:
    """Return ``value`` as the chart's ``toRawJson`` writes it: a whole number has no fraction."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


@cache
def _template() -> str:
    return TEMPLATE.read_text(encoding="utf-8")
