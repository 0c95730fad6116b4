"""In the head pod: import the application that serveConfigV2 names and build it, as Serve does."""

import importlib
import os
import sys
import traceback
from typing import Any


def main(text: str) -> dict[str, Any]:
    """Return the problems of the applications of a serveConfigV2 in this image, and whether they were built."""
    sys.path.insert(0, os.getcwd())
    try:
        from serve_config.imports import import_problems
    except ImportError:
        return {"built": False, "problems": _imported(text)}
    return {"built": True, "problems": [str(problem) for problem in import_problems(text)]}


def _imported(text: str) -> list[str]:
    """Import the paths without building anything, for an image that lacks this project's serve_config."""
    import yaml

    problems = []
    for application in yaml.safe_load(text)["applications"]:
        path = application["import_path"]
        module, _, attribute = path.partition(":")
        if not attribute:
            module, _, attribute = path.rpartition(".")
        try:
            found: Any = importlib.import_module(module)
            for name in attribute.split("."):
                found = getattr(found, name)
        except Exception as error:
            problems.append(f"{path}: {traceback.format_exception_only(error)[-1].strip()}")
    return problems
