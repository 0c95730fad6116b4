"""The command as it is typed, where there is no cluster to look at."""

from pathlib import Path

import pytest
import yaml
from wan22_doctor.__main__ import main

from testing.ports import free_port


def kubeconfig(folder: Path, server: str) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_without_a_kubeconfig_it_says_what_to_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kubeconfig", str(tmp_path / "none")]) == 2
    assert "set KUBECONFIG or --kubeconfig" in capsys.readouterr().err


def test_an_unknown_context_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = kubeconfig(tmp_path, "https://127.0.0.1:1")
    assert main(["--kubeconfig", path, "--context", "prod"]) == 2
    assert "prod" in capsys.readouterr().err


def test_an_api_server_that_does_not_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = f"https://127.0.0.1:{free_port()}"
    assert main(["--kubeconfig", kubeconfig(tmp_path, server), "-n", "videos"]) == 2
    assert f"the API server {server} does not answer" in capsys.readouterr().err
