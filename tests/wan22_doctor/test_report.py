"""What a person and a program read."""

import json
from dataclasses import replace

from rich.console import Console
from wan22_doctor import report
from wan22_doctor.checks import judge
from wan22_doctor.findings import Cause, Finding, NotSeen, Result, failed, ok

from tests.wan22_doctor import healthy


def printed(findings: list[Finding], width: int = 100) -> str:
    console = Console(width=width, record=True, force_terminal=False)
    with console.capture() as capture:
        report.show(console, healthy.facts(), findings, 2.5)
    return capture.get()


def test_it_fits_into_a_terminal_of_100_columns() -> None:
    text = printed(judge(healthy.facts()))
    assert max(map(len, text.splitlines()[:-1])) <= 100
    assert text.splitlines()[-1] == (
        "healthy: RayService wan22-rayservice in namespace videos, Kubernetes v1.34.4 (21 ok; 2.5 s)"
    )


def test_a_remedy_stands_below_its_evidence() -> None:
    lines = printed([replace(failed("no pods", "kubectl get pods"), check="pods")]).splitlines()
    (row,) = (number for number, line in enumerate(lines) if "no pods" in line)
    assert "→ kubectl get pods" in lines[row + 1]


def test_checks_not_made_for_one_reason_share_a_row() -> None:
    unseen = NotSeen("the head pod does not run")
    text = printed(judge(replace(healthy.facts(), head=unseen, application=unseen, request=unseen)))
    assert text.count("the head pod does") == 1
    assert "10 more" in text


def test_exit_status_says_healthy_wrong_or_not_seen() -> None:
    blind = NotSeen("not allowed to create pods/exec", "kubectl create role", Cause.BLIND)
    good = healthy.facts()
    assert report.exit_status(judge(good)) == 0
    assert report.exit_status([ok("fine"), failed("broken", "repair")]) == 1
    assert report.exit_status(judge(replace(good, head=blind))) == 2
    assert report.exit_status(judge(replace(good, request=NotSeen("left out", "", Cause.OFF)))) == 0


def test_json_holds_every_finding() -> None:
    findings = judge(healthy.facts())
    value = json.loads(report.as_json(healthy.facts(), findings, 2.5))
    assert (value["healthy"], value["exit_status"], value["object"]) == (True, 0, "RayService wan22-rayservice")
    assert [one["check"] for one in value["findings"]] == [finding.check for finding in findings]
    assert value["findings"][0]["result"] == Result.OK
