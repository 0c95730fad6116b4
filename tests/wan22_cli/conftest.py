"""A service and the command line as it is typed."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from wan22_cli import commands, service
from wan22_cli.__main__ import app

from app.tasks.embedded import EmbeddedRedis
from tests.wan22_cli.served import Served


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The JSON that it printed."""
        value: dict[str, Any] = json.loads(self.out)
        return value


Wan22 = Callable[..., Done]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of settings, which is the working folder too."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WAN22_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands look again soon."""
    monkeypatch.setattr(service, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(service, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(commands, "POLL_SECONDS", 0.02)


@pytest.fixture
def served(
    redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    """A service without gangs."""
    served = Served(redis_server.url, tmp_path_factory.mktemp("storage"), monkeypatch)
    served.do(served.come_back())
    yield served
    served.close()


@pytest.fixture
def wan22(home: Path, quick: None, request: pytest.FixtureRequest) -> Wan22:
    """Runs ``wan22`` with arguments; at the service if the test has one."""
    environment = {"COLUMNS": "100"}
    if "served" in request.fixturenames:
        environment["WAN22_URL"] = request.getfixturevalue("served").url

    def run(*arguments: object, **more: str | None) -> Done:
        if arguments[0] in ("generate", "download") and "--patience" not in arguments:
            arguments += ("--patience", 15)
        result = CliRunner().invoke(app, [str(one) for one in arguments], env=environment | more)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return run
