"""An option is written in app/config.py and in values.yaml; charts/generate.py writes everything between."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.charts.conftest import CHART, Template
from tests.charts.test_parity import serve_config

ROOT = CHART.parents[1]
OPTION = "    dummy_option: float = Field(5, gt=0, le=9)\n"
VALUE = "  # -- An option that only this test has.\n  dummyOption: 5\n"


class Checkout:
    """A copy of the sources that options go through."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("serve_config", "charts", "examples"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        (root / "app").mkdir()
        for name in ("__init__.py", "config.py", "plan.py"):
            shutil.copy(ROOT / "app" / name, root / "app" / name)

    def add(self, path: str, before: str, text: str) -> None:
        """Write ``text`` in front of the only ``before`` in a file."""
        file = self.root / path
        head, tail = file.read_text(encoding="utf-8").split(before)
        file.write_text(f"{head}{text}{before}{tail}", encoding="utf-8")

    def add_field(self) -> None:
        self.add("app/config.py", "    max_queued_tasks: int", OPTION)

    def add_value(self) -> None:
        self.add("charts/wan22-rayservice/values.yaml", "model:\n  # -- ", VALUE)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the copy."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env={"PYTHONPATH": str(self.root)},
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_generated_files_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "charts" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_stale_file_is_named_with_the_command(checkout: Checkout) -> None:
    checkout.add("charts/wan22-rayservice/values.yaml", "# -- Further environment of head", "# -- New.\nnewValue: 1\n")
    done = checkout.run("charts/generate.py", "--check")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"charts/wan22-rayservice/{name}: not up to date; run python charts/generate.py"
        for name in ("values.schema.json", "README.md")
    ]


def test_a_new_option_is_a_field_and_a_value(checkout: Checkout, template: Template) -> None:
    checkout.add_field()
    checkout.add_value()
    stale = checkout.run("charts/generate.py", "--check")
    assert stale.returncode == 1
    assert [line.split(": ")[0] for line in stale.stdout.splitlines()] == [
        "serve_config/serve-config.json.tmpl",
        "charts/wan22-rayservice/files/serve-config.json.tmpl",
        "examples/rayservice-standalone.yaml",
        "charts/wan22-rayservice/values.schema.json",
        "charts/wan22-rayservice/README.md",
    ]
    assert checkout.run("charts/generate.py").returncode == 0
    assert checkout.run("charts/generate.py", "--check").returncode == 0

    command = ("-m", "serve_config", "--attention-heads", "24", "--dummy-option")
    for value in ("5", "7.5"):
        printed = checkout.run(*command, value).stdout
        (application,) = json.loads(printed)["applications"]
        assert application["args"]["dummy_option"] == float(value)
        chart = checkout.root / "charts" / "wan22-rayservice"
        rendered = template(chart=chart, **{"app.dummyOption": json.loads(value)})
        assert serve_config(rendered) == printed
    refused = template(chart=chart, **{"app.dummyOption": 10})
    assert "/app/dummyOption" in refused.error
    assert '"dummy_option": 5' in (checkout.root / "examples" / "rayservice-standalone.yaml").read_text()


def test_an_option_without_a_value_is_named(checkout: Checkout) -> None:
    checkout.add_field()
    done = checkout.run("charts/generate.py")
    assert done.returncode == 1
    assert "values.yaml: app.dummyOption is missing, the value of the option dummy_option" in done.stdout


def test_a_value_without_an_option_is_named(checkout: Checkout) -> None:
    checkout.add_value()
    done = checkout.run("charts/generate.py")
    assert done.returncode == 1
    assert "values.yaml: app.dummyOption is no option of the app" in done.stdout


def test_defaults_that_differ_are_named(checkout: Checkout) -> None:
    file = checkout.root / "charts" / "wan22-rayservice" / "values.yaml"
    file.write_text(re.sub(r"leaseSeconds: 15", "leaseSeconds: 16", file.read_text(encoding="utf-8")), encoding="utf-8")
    done = checkout.run("charts/generate.py", "--check")
    assert done.returncode == 1
    assert "the default of app.leaseSeconds is 16, that of the option lease_seconds is 15" in done.stdout


def test_an_option_set_to_null_is_named(template: Template) -> None:
    refused = template(**{"app.leaseSeconds": "null"})
    assert refused.returncode != 0
    assert "app.leaseSeconds: null or missing; give it a value" in refused.error
