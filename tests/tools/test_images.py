"""What a build takes from this machine, and what the Dockerfile promises."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tools.images import IMAGES, ROOT, secrets

CHART = ROOT / "charts/wan22-rayservice"
VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "PIP_CONFIG_FILE", "SSL_CERT_FILE")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with certificates of its own and an empty configuration."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    bundle = tmp_path / "bundle.crt"
    bundle.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    return tmp_path


def test_a_build_sees_the_machines_certificates(machine: Path) -> None:
    assert secrets(machine)["ca"] == machine / "bundle.crt"


@pytest.mark.parametrize("variable", ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"])
def test_an_index_of_the_environment_reaches_pip_and_uv(
    variable: str, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "https://index.example/simple")
    found = secrets(machine)
    assert "index-url = https://index.example/simple" in found["pip"].read_text()
    index = tomllib.loads(found["uv"].read_text())["index"]
    assert index == [{"url": "https://index.example/simple", "default": True}]


def test_so_does_one_of_pips_own_configuration(machine: Path) -> None:
    (machine / "pip.conf").write_text("[global]\nindex-url = https://user:100%25@index.example/simple\n")
    assert "https://user:100%25@index.example/simple" in secrets(machine)["uv"].read_text()


def test_the_images_have_the_names_and_the_tag_that_the_chart_takes_by_default() -> None:
    chart, values = (yaml.safe_load((CHART / name).read_text()) for name in ("Chart.yaml", "values.yaml"))
    taken = [values["image"]["repository"], values["operator"]["image"]["repository"]]
    assert [image.name for image in IMAGES] == [f"{repository}:{chart['appVersion']}" for repository in taken]


def test_every_secret_is_one_that_the_dockerfile_mounts(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://index.example/simple")
    mounted = set(re.findall(r"type=secret,id=(\w+)", (ROOT / "Dockerfile").read_text()))
    assert mounted == set(secrets(machine))


def test_the_dockerfile_copies_nothing_that_dockerignore_keeps_out() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(?:--chmod=\d+ )?(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {source.split("/")[0] for line in copied for source in line.split()} <= kept
