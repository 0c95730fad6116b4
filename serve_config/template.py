"""The one text of serveConfigV2 (serve-config.json.tmpl), rendered here by Jinja2 and in the chart by ``replace``.

Its only syntax is a marker per JSON value, ``@{name}@``. The marker of an application's argument is ``@{app.<name>}@``,
with the name in camelCase as in the chart's values: the marker of ``step_cache`` is ``@{app.stepCache}@``.
``charts/generate.py`` writes the lines of the arguments.
"""

import json
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from pydantic.alias_generators import to_camel

from app.config import AppArgs
from serve_config.values import ServeValues

TEMPLATE = Path(__file__).with_name("serve-config.json.tmpl")
ARGUMENTS = sorted(AppArgs.model_fields.keys() - {"total_workers", "gangs"})
"""The rendered arguments. The counts are not among them, since a change of any argument restarts the application."""


_ENVIRONMENT = Environment(
    variable_start_string="@{",
    variable_end_string="}@",
    block_start_string="@%",
    block_end_string="%@",
    comment_start_string="@#",
    comment_end_string="#@",
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,
)


def marker(argument: str) -> str:
    """Return the name of an argument's marker."""
    return f"app.{to_camel(argument)}"


def render(values: ServeValues) -> str:
    """Return serveConfigV2 for ``values``: JSON with sorted keys, which every YAML parser reads the same."""
    return fill(TEMPLATE.read_text(encoding="utf-8"), values)


def fill(template: str, values: ServeValues) -> str:
    """Return ``template`` with every marker replaced by its JSON value.

    Raises:
        jinja2.UndefinedError: the template has a marker that nothing fills.
    """
    args = values.app_args().model_dump()
    app = {to_camel(argument): _json(args[argument]) for argument in ARGUMENTS}
    counts = {"totalWorkers": values.total_workers, "gangs": values.gangs, "pods": values.pods}
    # Jinja2 keeps the last 400 compiled templates, so the text is parsed once.
    return _ENVIRONMENT.from_string(template).render(app=app, **counts)


def _json(value: object) -> str:
    """Return ``value`` as the chart's ``toRawJson`` writes it: a whole number has no fraction."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
