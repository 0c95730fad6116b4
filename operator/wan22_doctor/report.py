"""Prints the findings: as a table for people, as JSON for programs."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from wan22_doctor.facts import Facts, Target
from wan22_doctor.findings import Finding, Result

_STYLES = {Result.OK: "green", Result.WARNING: "yellow", Result.FAILED: "bold red", Result.SKIPPED: "dim"}
_VERDICTS = {
    0: ("healthy", "bold green"),
    1: ("not healthy", "bold red"),
    2: ("nothing wrong was found, but not everything could be checked", "bold yellow"),
}


def exit_status(findings: list[Finding]) -> int:
    """Return 1 if something is wrong, 2 if nothing is wrong but a fact could not be found out, otherwise 0."""
    if any(finding.result == Result.FAILED for finding in findings):
        return 1
    return 2 if any(finding.blind for finding in findings) else 0


def table(findings: list[Finding]) -> Table:
    """Return the findings as a table. A remedy is below its evidence, so that a command has room on its line."""
    rows = Table(expand=True, header_style="bold")
    rows.add_column("check", no_wrap=True)
    rows.add_column("result", no_wrap=True)
    rows.add_column("evidence → remedy", ratio=1)
    before = ""
    for finding in _with_skipped_merged(findings):
        parts: list[RenderableType] = [Text(finding.evidence)]
        if finding.remedy:
            parts.append(Text(f"→ {finding.remedy}", style="cyan"))
        name = "" if finding.check == before else finding.check
        rows.add_row(name, Text(finding.result.value, style=_STYLES[finding.result]), Group(*parts))
        before = finding.check
    return rows


def _with_skipped_merged(findings: list[Finding]) -> Iterator[Finding]:
    """Yield the findings; checks that were skipped for the same reason share one finding at the end."""
    names: dict[str, list[str]] = {}
    for finding in findings:
        if finding.result == Result.SKIPPED:
            names.setdefault(finding.evidence, []).append(finding.check)
        else:
            yield finding
    for why, checks in names.items():
        first = next(one for one in findings if one.evidence == why and one.result == Result.SKIPPED)
        if len(checks) == 1:
            yield first
        else:
            yield replace(first, check=f"{len(checks)} more", evidence=f"{', '.join(checks)}: {why}")


def summary(facts: Facts, findings: list[Finding], seconds: float) -> Text:
    """Return the last line: the verdict, the object, and the number of findings by result."""
    verdict, style = _VERDICTS[exit_status(findings)]
    counts = Counter(finding.result for finding in findings)
    listed = ", ".join(f"{counts[result]} {result.value}" for result in Result if counts[result])
    title = f": {facts.target.title}" if isinstance(facts.target, Target) else ""
    details = f"{title} in namespace {facts.namespace}, Kubernetes {facts.kubernetes} ({listed}; {seconds:.1f} s)"
    return Text.assemble((verdict, style), details)


def as_json(facts: Facts, findings: list[Finding], seconds: float) -> str:
    """Return the report as one JSON object."""
    value = {
        "healthy": exit_status(findings) == 0,
        "exit_status": exit_status(findings),
        "namespace": facts.namespace,
        "object": facts.target.title if isinstance(facts.target, Target) else None,
        "kubernetes": facts.kubernetes,
        "seconds": round(seconds, 2),
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(value, indent=2, ensure_ascii=False)


def show(console: Console, facts: Facts, findings: list[Finding], seconds: float) -> None:
    """Print the table and the last line."""
    console.print(table(findings))
    console.print(summary(facts, findings, seconds), soft_wrap=True)
