"""``python -m serve_config``: print serveConfigV2, or check one (exit 0: fine, 1: problems, 2: wrong usage)."""

import argparse
import importlib.util
import sys
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.config import explain
from serve_config.check import check_serve_config
from serve_config.manifest import Checked, check_manifest, documents
from serve_config.resources import Pods
from serve_config.template import render
from serve_config.values import ServeValues


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.check is None:
        for name in ("imports", "pods"):
            if getattr(options, name):
                parser.error(f"--{name.removesuffix('s') if name == 'imports' else name} goes with --check FILE")
        return _print(options)
    given = {name for name in ServeValues.model_fields if getattr(options, name) is not None}
    if extra := sorted(given - {"worker_cpus", "gpus_per_worker"}):
        parser.error(f"--{extra[0].replace('_', '-')} is for printing; --check reads it from the file")
    try:
        pods = TypeAdapter(Pods).validate_python(
            {"cpus": options.worker_cpus, "gpus": options.gpus_per_worker, "count": options.pods}
        )
    except ValidationError as error:
        parser.error(f"--check, the worker pods: {explain(error)}")
    try:
        text = sys.stdin.read() if options.check == "-" else Path(options.check).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"--check {options.check}: {error}")
    return _check(options, text, pods)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve_config", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--check", metavar="FILE", help="a serveConfigV2, or a manifest that holds one; - reads stdin")
    parser.add_argument("--import", dest="imports", action="store_true", help="with --check: import and build it too")
    parser.add_argument("--pods", metavar="VALUE", help="with --check: worker pods; default: those of the manifest")
    values = parser.add_argument_group("values (worker-cpus and gpus-per-worker go with --check too)")
    for name, field in ServeValues.model_fields.items():
        text = "" if field.default is None else f"default: {field.default}"
        values.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=text)
    return parser


def read_values(arguments: list[str]) -> ServeValues:
    """Return the values that a command line to print gives.

    Raises:
        ValidationError: a value is wrong, or they do not go together.
    """
    return _values(_parser().parse_args(arguments))


def _values(options: argparse.Namespace) -> ServeValues:
    given = {name: getattr(options, name) for name in ServeValues.model_fields}
    return ServeValues.model_validate({name: value for name, value in given.items() if value is not None})


def _print(options: argparse.Namespace) -> int:
    try:
        sys.stdout.write(render(_values(options)))
    except ValidationError as error:
        print(explain(error).replace("Value error, ", ""), file=sys.stderr)
        return 1
    return 0


def _check(options: argparse.Namespace, text: str, pods: Pods) -> int:
    with_ray = importlib.util.find_spec("ray") is not None
    if documents(text):
        results = check_manifest(text, pods, with_ray=with_ray)
        if not results:
            print(f"{options.check}: no RayService, RayCluster or ConfigMap with serveConfigV2 in it", file=sys.stderr)
            return 2
    else:
        results = [Checked("serveConfigV2", check_serve_config(text, pods, with_ray=with_ray), text=text)]
    problems = 0
    for result in results:
        found = result.problems
        if options.imports and result.text and not found:
            if not with_ray:
                print("--import: Ray is not installed here; install the extra app (ray[serve])", file=sys.stderr)
                return 2
            from serve_config.imports import import_problems

            found = import_problems(result.text)
        problems += len(found)
        for problem in found:
            print(f"{options.check}: {result.name}: {problem}")
        if not found:
            print(f"{options.check}: {result.name}: {result.note or 'no problem found'}")
    if not with_ray:
        print("Ray is not installed here, so its schema was not checked; install the extra app", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
