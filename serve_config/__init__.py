"""Renders serveConfigV2 from typed values, and reads, edits and checks any other."""

from serve_config.check import check_serve_config
from serve_config.counts import Counts, read_counts, with_counts
from serve_config.document import ServeConfigError
from serve_config.problems import Problem
from serve_config.resources import Pods
from serve_config.template import render
from serve_config.values import ServeValues

__all__ = [
    "Counts",
    "Pods",
    "Problem",
    "ServeConfigError",
    "ServeValues",
    "check_serve_config",
    "read_counts",
    "render",
    "with_counts",
]
