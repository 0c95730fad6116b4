"""Options that commands share, written once and added to the signature of each command."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from app.http.generate_request import GenerateRequest
from wan22_cli.output import Json, Output
from wan22_cli.problems import Exit, Problem

OF_REQUEST = "Request (what is left out has the model's default)"
OF_CONNECTION = "Service"
_TYPES = {"integer": int, "number": float, "string": str}


class Request(dict[str, Any]):
    """The fields of a request that the user gave; ``image`` is the path of a file."""


JsonOption = Annotated[bool, typer.Option("--json", help="Print the result, or the error, as JSON.")]


def request_options(**fields: Any) -> Request:
    """Return the fields that were given."""
    return Request({name: value for name, value in fields.items() if value is not None})


@cache
def request_parameters() -> tuple[inspect.Parameter, ...]:
    """Return one parameter for each field of ``GenerateRequest``: the prompt an argument, every other an option."""
    fields = GenerateRequest.model_json_schema()["properties"]
    return (_prompt(), *(_option(name, field) for name, field in fields.items() if name != "prompt"))


def _prompt() -> inspect.Parameter:
    argument = typer.Argument(metavar="PROMPT", help="What the video shows.", show_default=False)
    return _parameter("prompt", Annotated[str, argument], inspect.Parameter.empty)


def _option(name: str, field: Json) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    if name == "image":
        option = typer.Option(
            flag,
            help="The picture from which the video begins.",
            exists=True,
            dir_okay=False,
            readable=True,
            rich_help_panel=OF_REQUEST,
        )
        return _parameter(name, Annotated[Path | None, option])
    value = next(one for one in field["anyOf"] if one["type"] != "null")
    text = " ".join(filter(None, (field.get("description", ""), _bounds(value))))
    option = typer.Option(flag, help=text or None, show_default=False, rich_help_panel=OF_REQUEST)
    return _parameter(name, Annotated[_TYPES[value["type"]] | None, option])


def _bounds(field: Json) -> str:
    """Return the allowed values of a number in words. The service checks them, since it knows its model."""
    low, high = field.get("minimum"), field.get("maximum")
    parts = []
    if high is not None:
        above = field.get("exclusiveMinimum")
        parts.append(f"above {above:g} to {high:g}" if low is None and above is not None else f"{low:g} to {high:g}")
    if "multipleOf" in field:
        parts.append(f"a multiple of {field['multipleOf']:g}")
    return f"Allowed: {', '.join(parts)}." if parts else ""


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def as_command(
    function: Callable[..., Any], connect: Callable[..., AbstractContextManager[Any]]
) -> Callable[..., None]:
    """Return ``function`` with options in place of what it needs, for typer.

    A parameter ``request`` of ``function`` becomes the options of a request, ``output`` becomes ``--json``, and ``to``
    the options of ``connect``, whose context is open while ``function`` runs. Its problems are printed, and the
    ``Exit`` that it returns is the exit status.
    """
    own = inspect.signature(function, eval_str=True).parameters
    connection = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(connect, eval_str=True).parameters.values()
    ]
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        if name == "request":
            parameters += request_parameters()
        elif name not in ("to", "output"):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    parameters += connection
    parameters.append(_parameter("as_json", JsonOption, False))

    def command(**given: Any) -> None:
        output = Output(given.pop("as_json"))
        reach = {parameter.name: given.pop(parameter.name) for parameter in connection}
        if "request" in own:
            given["request"] = request_options(**{one.name: given.pop(one.name) for one in request_parameters()})
        try:
            with ExitStack() as stack:
                given["to"] = stack.enter_context(connect(**reach))
                status = function(**given, output=output)
        except Problem as problem:
            status = problem.status
            if output.as_json:
                output.result(problem.as_json())
            else:
                output.note(str(problem), "bold red" if status == Exit.NO else "red")
        except KeyboardInterrupt:
            status = Exit.INTERRUPTED
        raise typer.Exit(int(status or Exit.DONE))

    command.__name__ = function.__name__
    # typer keeps the line breaks of all paragraphs but the first.
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    command.__doc__ = "\n\n".join(" ".join(one.split()) for one in paragraphs)
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it.
    return command
