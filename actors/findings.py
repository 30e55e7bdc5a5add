"""What was found of a machine, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at: fine, wrong, or (None) only worth knowing."""

    what: str
    ok: bool | None
    detail: str
    mend: str = ""  # one line, the exact command where there is one


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing is wrong."""
    return all(finding.ok is not False for finding in findings)


def render(findings: Sequence[Finding]) -> Table:
    """The findings as a table for a terminal, each remedy under what it mends."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        mark = {True: "[green]ok[/]", False: "[red]wrong[/]", None: "[yellow]note[/]"}[finding.ok]
        remedy = f"\n[bold]-> {escape(finding.mend)}[/]" if finding.mend else ""
        table.add_row(mark, escape(finding.what), escape(finding.detail) + remedy)
    return table
