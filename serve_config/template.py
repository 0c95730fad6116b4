"""The one text of serveConfigV2 (serve-config.json.tmpl), rendered here by Jinja2 and in the chart by ``replace``."""

import json
from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from serve_config.values import ServeValues

TEMPLATE = Path(__file__).with_name("serve-config.json.tmpl")


def render(values: ServeValues) -> str:
    """Return serveConfigV2 for ``values``: JSON with sorted keys, which every YAML parser reads the same."""
    markers = values.app_args().model_dump(exclude={"total_workers", "gangs"})
    markers |= {"total_workers": values.total_workers, "gangs": values.gangs, "pods": values.pods}
    return _template().render({name: _json(value) for name, value in markers.items()})


def _json(value: object) -> str:
    """Return ``value`` as the chart's ``toRawJson`` writes it: a whole number has no fraction."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


@cache
def _template() -> Template:
    environment = Environment(
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
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
