"""Real Helm on the real chart."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import tools

CHART = Path(__file__).parents[2] / "charts" / "wan22-rayservice"
CI = sorted(CHART.glob("ci/*-values.yaml"))


@dataclass(frozen=True)
class Rendered:
    """What ``helm template`` answered."""

    returncode: int
    objects: list[dict[str, Any]]
    error: str

    def one(self, kind: str, name: str = "") -> dict[str, Any]:
        """Return the only object of a kind, of those whose name ends in ``name``."""
        (found,) = [each for each in self.objects if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
        return found


Template = Callable[..., Rendered]


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the spec of every pod in some objects, with its owner's name."""
    for one in objects:
        name, spec = f"{one['kind']} {one['metadata']['name']}", one.get("spec", {})
        cluster = spec.get("rayClusterConfig", spec)
        if one["kind"] == "Pod":
            yield name, spec
        elif "headGroupSpec" in cluster:
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                yield f"{name} {group.get('groupName', 'head')}", group["template"]["spec"]
        elif "template" in spec:
            yield name, spec["template"]["spec"]


@pytest.fixture(scope="session")
def helm() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Helm with some arguments."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [tools.binary("helm"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="session")
def template(helm: Callable[..., subprocess.CompletedProcess[str]]) -> Template:
    """Render the chart with some values files and ``--set`` values."""

    def render(*values: Path, release: str = "wan22", chart: Path = CHART, **sets: object) -> Rendered:
        files = [word for file in values for word in ("--values", file)]
        given = [
            # Helm reads a fraction after --set as a text.
            word
            for key, value in sets.items()
            for word in ("--set-json" if isinstance(value, float) else "--set", f"{key}={value}")
        ]
        done = helm("template", release, chart, *files, *given)
        objects = [one for one in yaml.safe_load_all(done.stdout) if one] if done.returncode == 0 else []
        lines = [line for line in done.stderr.splitlines() if "level=INFO" not in line]
        return Rendered(done.returncode, objects, "\n".join(lines))

    return render
