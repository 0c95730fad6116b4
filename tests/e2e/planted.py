"""What the doctor said of the faults that tests planted, from the tests' processes to the end of the run."""

from collections.abc import Iterable

import pytest
from rich.table import Table
from rich.text import Text

FAULT = "planted fault"
"""Property of a test that planted one: the fault's name, and the check, evidence and remedy that the doctor has."""


def table(reports: Iterable[pytest.TestReport]) -> Table | None:
    """Return a table of the faults in some tests' reports; None where there is none."""
    found = [
        value for report in reports if report.when == "call" for name, value in report.user_properties if name == FAULT
    ]
    rows = Table("planted fault", "check", "evidence → remedy", title="Planted faults, as the doctor names them")
    for row in found:
        fault, check, evidence, remedy = map(str, row)  # type: ignore[call-overload]
        rows.add_row(fault, check, Text(f"{evidence}\n→ {remedy}"), end_section=True)
    return rows if found else None
