"""Validation of any serveConfigV2 before it is applied: text, keys, applications, counts and resources."""

import re
import warnings
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode

from app.config import IMPORT_PATH, AppArgs, UserConfig
from app.plan import NoPlanError, gang_plan
from serve_config import keys, python_code
from serve_config.counts import API, GENERATOR
from serve_config.document import KeyPath, ServeConfigError, compose, get, plain, walk
from serve_config.problems import Positions, Problem
from serve_config.resources import Pods, misfits

Found = Iterator[tuple[KeyPath, str]]

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_TWO_READINGS = re.compile(r"(?i:y|n|yes|no|on|off)|[-+]?0[0-7]+|0o[0-7]+|[-+]?\d[\d_]*_[\d_]*|\d+(:[0-5]?\d)+")


def check_serve_config(text: str, pods: Pods | None = None, *, with_ray: bool = False) -> list[Problem]:
    """Return the problems of a serveConfigV2, in the order of its text.

    Args:
        text: the text of serveConfigV2, YAML or JSON.
        pods: the worker pods that it is meant for; without them, resources are not checked.
        with_ray: ask Ray's own schema too; imports Ray.
    """
    try:
        root = compose(text)
        config = plain(root)
    except ServeConfigError as error:
        return [_unreadable(text, str(error))]
    positions = Positions(root)
    code = python_code.line(text)
    if isinstance(root, MappingNode) and code is not None and get(root, "applications") is None:
        return [Problem("", f"looks like Python, not YAML; {python_code.REMEDY}", code, 1)]
    if not isinstance(root, MappingNode):
        message = python_code.REMEDY if code is not None else "write a mapping with the key applications"
        return [positions.problem((), f"found {_kind(root)}, not a mapping; {message}")]
    found = [*keys.repeated(root), *keys.unknown(root), *python_code.values(root), *_two_readings(root)]
    assert isinstance(config, dict)
    found += _applications(config)
    named = {path for path, _ in found}
    if pods is not None:
        found += misfits(config, pods)
    if with_ray:
        # Problems found above explain themselves better than Ray does.
        found += [(path, message) for path, message in _ray(config) if not any(path == one for one in named)]
    problems = dict.fromkeys(positions.problem(path, message) for path, message in found)
    return sorted(problems, key=lambda problem: (problem.line, problem.column))


def _unreadable(text: str, message: str) -> Problem:
    position = re.match(r"line (\d+), column (\d+): ", message)
    row, column = map(int, position.groups()) if position else (0, 0)
    message = message[position.end() :] if position else message
    code = python_code.line(text)
    if code is not None:
        message += f". Line {code} looks like Python: {python_code.REMEDY}"
    return Problem("", message, row, column)


def _kind(node: Node) -> str:
    return "a plain text" if isinstance(node, ScalarNode) else "a list"


def _two_readings(root: Node) -> Found:
    """Yield values that YAML 1.1 (KubeRay) and YAML 1.2 parsers read differently."""
    for path, node in walk(root):
        if isinstance(node, ScalarNode) and node.style is None and _TWO_READINGS.fullmatch(str(node.value)):
            yield (
                path,
                f"{node.value} means different things to YAML 1.1 and 1.2 parsers; put it in quotes or write "
                "true, false or a plain decimal number",
            )


def _applications(config: dict[str, Any]) -> Found:
    applications = config.get("applications")
    if not isinstance(applications, list) or not applications:
        yield (
            ("applications",),
            f"found {applications!r}, need a list of at least one application; write [{{name: "
            f"wan22, route_prefix: /, import_path: {IMPORT_PATH}}}]",
        )
        return
    seen: dict[tuple[str, object], int] = {}
    for index, application in enumerate(applications):
        path: KeyPath = ("applications", index)
        if not isinstance(application, dict):
            yield path, f"found {application!r}, need a mapping with name, route_prefix and import_path"
            continue
        for key, default in (("name", "default"), ("route_prefix", "/")):
            value = application.get(key, default)
            if value is not None and seen.setdefault((key, str(value)), index) != index:
                other = seen[key, str(value)]
                yield (
                    (*path, key),
                    f"{value!r} is used by applications[{other}] too; give each application a separate one",
                )
        yield from _application(path, application)


def _application(path: KeyPath, application: dict[str, Any]) -> Found:
    prefix = application.get("route_prefix", "/")
    remedy = "write / or a path such as /video, without a slash at its end and without braces, or null for no HTTP"
    if prefix is not None and (
        not isinstance(prefix, str)
        or not prefix.startswith("/")
        or (prefix != "/" and prefix.endswith("/"))
        or re.search(r"[{}\s]", prefix)
    ):
        yield (*path, "route_prefix"), f"found {prefix!r}; {remedy}"
    import_path: Any = application.get("import_path")
    is_text = isinstance(import_path, str)
    inline = is_text and python_code.line(import_path) is not None
    if not inline and not (is_text and _IMPORT_PATH.fullmatch(import_path)):
        yield (
            (*path, "import_path"),
            f"found {import_path!r}, need module:variable; write {IMPORT_PATH} or the path of a module in the image",
        )
    deployments = application.get("deployments") or []
    if not isinstance(deployments, list):
        yield (*path, "deployments"), f"found {deployments!r}, need a list of mappings with a name"
        return
    names: set[str] = set()
    for index, deployment in enumerate(deployments):
        where = (*path, "deployments", index)
        if not isinstance(deployment, dict) or not isinstance(deployment.get("name"), str):
            yield where, f"found {deployment!r}, need a mapping with a name"
        elif deployment["name"] in names:
            yield (*where, "name"), f"{deployment['name']} is listed twice; keep one entry per deployment"
        else:
            names.add(deployment["name"])
    if import_path == IMPORT_PATH:
        yield from _ours(path, application, [one for one in deployments if isinstance(one, dict)])


def _ours(path: KeyPath, application: dict[str, Any], deployments: list[dict[str, Any]]) -> Found:
    """Check the arguments, the user_config and the plan of this project's application."""
    args = application.get("args") or {}
    heads = None
    try:
        heads = AppArgs.model_validate(args).attention_heads
    except ValidationError as error:
        yield from _fields((*path, "args"), error, AppArgs)
    for index, deployment in enumerate(deployments):
        where: KeyPath = (*path, "deployments", index)
        name = deployment.get("name")
        if name not in (API, GENERATOR):
            yield (*where, "name"), f"found {name!r}; the application has {API} and {GENERATOR}"
        if name != GENERATOR or deployment.get("user_config") is None:
            continue
        try:
            ranks = UserConfig.model_validate(deployment["user_config"]).total_workers
            if heads is not None:
                gang_plan(ranks, heads)
        except ValidationError as error:
            yield from _fields((*where, "user_config"), error, UserConfig)
        except NoPlanError as error:
            yield (*where, "user_config", "total_workers"), str(error)


def _fields(path: KeyPath, error: ValidationError, model: type[AppArgs] | type[UserConfig]) -> Found:
    for one in error.errors(include_url=False):
        place: KeyPath = (*path, *one["loc"])
        if one["type"] == "extra_forbidden":
            yield place, f"unknown; remove it, known here are {', '.join(model.model_fields)}"
        elif one["type"] == "missing":
            yield place, "missing; write a whole number of ranks"
        else:
            yield place, f"{one['msg']} (found {one['input']!r}); correct the value"


def _ray(config: dict[str, Any]) -> Found:
    """Ask Ray's own schema."""
    with warnings.catch_warnings():
        # Ray's own modules warn about themselves as they are imported.
        warnings.simplefilter("ignore")
        from ray.serve.schema import ServeDeploySchema

    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            path = tuple(step for step in one["loc"] if not (isinstance(step, str) and not step.isidentifier()))
            yield path, f"Ray refuses it: {one['msg'].removeprefix('Value error, ')}"
    except (ValueError, TypeError) as error:
        yield (), f"Ray refuses it: {error}"
