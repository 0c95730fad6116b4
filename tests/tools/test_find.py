"""Where tools are looked for."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import MissingToolError, binary
from tools.catalog import TOOLS
from tools.find import folder, lookup


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine without tools: empty cache, empty PATH."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    binary.cache_clear()
    yield tmp_path
    binary.cache_clear()


def program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_missing_tool_names_the_command_that_builds_it(machine: Path) -> None:
    with pytest.raises(MissingToolError, match=r"etcd .* run `make tools`"):
        binary("etcd")
    with pytest.raises(MissingToolError, match=r"kubelet .* run `make node-tools`"):
        binary("kubelet")


def test_an_unknown_tool_is_answered_with_the_known_ones() -> None:
    with pytest.raises(MissingToolError, match=r"no tool 'kind'; use one of .*helm.*kubectl"):
        lookup("kind")


def test_a_program_on_path_is_taken_where_its_version_fits(machine: Path) -> None:
    found = program(machine / "bin" / "kube-apiserver", "Kubernetes v1.34.1")
    assert binary("kube-apiserver") == found


def test_a_program_of_another_version_is_not_taken(machine: Path) -> None:
    program(machine / "bin" / "kube-apiserver", "Kubernetes v1.29.0")
    with pytest.raises(MissingToolError):
        binary("kube-apiserver")


def test_kubebuilder_assets_come_before_path(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(machine / "bin" / "etcd", "etcd Version: 3.6.8")
    found = program(machine / "assets" / "etcd", "etcd Version: 3.6.5")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(machine / "assets"))
    assert binary("etcd") == found


def test_an_own_build_is_found_by_what_it_was_built_from(machine: Path) -> None:
    tool = TOOLS["kuberay-operator"]
    found = program(folder(tool) / tool.name, "")
    assert binary("kuberay-operator") == found
    assert folder(tool) != folder(TOOLS["etcd"])
