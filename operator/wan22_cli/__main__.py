"""``wan22``: make and manage videos at a service that has a URL."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer

from wan22_cli import commands
from wan22_cli.parameters import OF_CONNECTION, as_command
from wan22_cli.problems import STATUSES, Exit, Problem
from wan22_cli.service import Service, Url

LOCAL_URL = "http://127.0.0.1:8000"
"""Where `make run` and kubectl's port-forward serve."""
SETTINGS = {"url"}


def config_file() -> Path:
    """Return the path of the user's settings: TOML with the key ``url``."""
    return platformdirs.user_config_path("wan22") / "config.toml"


def connect(
    url: Annotated[
        str | None,
        typer.Option(
            envvar="WAN22_URL",
            help=f"The service's URL; by default url in {config_file()}, or {LOCAL_URL}.",
            show_default=False,
            rich_help_panel=OF_CONNECTION,
        ),
    ] = None,
) -> Service:
    """Return the service whose URL was given, or which the settings name."""
    place, found = ("--url or WAN22_URL", url) if url else _configured()
    if not found.startswith(("http://", "https://")):
        message = f"{place}: found {found!r}, allowed is http://HOST:PORT or https://HOST, with a path if it has one."
        raise Problem(Exit.REFUSED, message, "url")
    return Service(Url(found), f"Is the service there? The URL comes from {place}.", "wan22 {}")


def _configured() -> tuple[str, str]:
    file = config_file()
    try:
        settings: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return "the default; set --url, WAN22_URL, or url in " + str(file), LOCAL_URL
    except (OSError, ValueError) as error:
        raise Problem(Exit.REFUSED, f"{file} cannot be read: {error}.", "config") from None
    wrong = [name for name, value in settings.items() if name not in SETTINGS or not isinstance(value, str)]
    if wrong:
        message = f'{file}: found {", ".join(wrong)}; allowed is only url = "http://HOST:PORT".'
        raise Problem(Exit.REFUSED, message, "config")
    return (f"url in {file}", settings["url"]) if "url" in settings else ("the default", LOCAL_URL)


def program(name: str, words: str, **options: Any) -> typer.Typer:
    """Return a program without commands."""
    return typer.Typer(
        name=name,
        help=f"{words}\n\n{STATUSES}",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


def add_commands(app: typer.Typer, reach: Callable[..., Any]) -> None:
    """Add the commands that both programs have; ``reach`` returns the service."""
    functions: dict[str, Callable[..., Any]] = {
        "generate": commands.generate,
        "list": commands.list_tasks,
        "show": commands.show,
        "download": commands.download,
        "cancel": commands.cancel,
        "ready": commands.ready,
    }
    for name, function in functions.items():
        app.command(name)(as_command(function, reach))


app = program("wan22", "Make videos with a wan22 service.")
add_commands(app, connect)


def main() -> None:
    """Run the command line."""
    app(prog_name="wan22")


if __name__ == "__main__":
    main()
