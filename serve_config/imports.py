"""``--import`` imports and builds the application here, so that a Python error shows before anything is applied."""

import os
import sys
import traceback
import warnings
from pathlib import Path

from serve_config.document import compose, plain
from serve_config.problems import Positions, Problem


def import_problems(text: str) -> list[Problem]:
    """Import every import path of a serveConfigV2 and build its application, as Serve does; needs Ray.

    It runs the code in this process, with the current folder on the path and the application's env_vars set.
    """
    with warnings.catch_warnings():
        # Ray's own modules warn about themselves as they are imported.
        warnings.simplefilter("ignore")
        from ray._common.utils import import_attr
        from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    root = compose(text)
    positions, config = Positions(root), plain(root)
    problems = []
    for index, application in enumerate(config["applications"] if isinstance(config, dict) else ()):
        import_path = application["import_path"]
        os.environ.update((application.get("runtime_env") or {}).get("env_vars") or {})
        try:
            call_user_app_builder_with_args_if_necessary(import_attr(import_path), application.get("args") or {})
        except Exception as error:
            path = ("applications", index, "import_path")
            problems.append(positions.problem(path, f"{import_path}: {_explain(error)}"))
    return problems


def _explain(error: Exception) -> str:
    """Return what went wrong, in which file and line."""
    kind = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{kind} in {error.filename}, line {error.lineno}: {error.msg}; correct the code there"
    if isinstance(error, ModuleNotFoundError):
        return f"no module {error.name}; install it here as in the image, or run this where the module is"
    ray = f"{Path(sys.modules['ray'].__file__ or '').parent}{os.sep}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ray)]
    own = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<frozen")]
    where = f" in {own[-1].filename}, line {own[-1].lineno}" if own else ""
    return f"{kind}{where}: {error}"
