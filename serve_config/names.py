"""Names that serve_config, the operator and the chart share, each spelled once in Python."""

import re

PREFIX = "wan22.dev/"
MANAGED = f"{PREFIX}managed"
"""Label, "true" on the objects that the operator may touch."""
WORKER_GROUP = "gpu-workers"
SERVE_CONFIG_KEY = "serveConfigV2"

# The chart has the same table in templates/_plan.tpl; a test holds them equal.
_HEADS = ((r"A14B", 40), (r"(^|[^0-9])5B", 24))


def heads_of(model: str) -> int | None:
    """Return the attention heads that a model's path or hub id implies; None if its name says nothing."""
    return next((heads for pattern, heads in _HEADS if re.search(pattern, model)), None)
