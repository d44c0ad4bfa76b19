"""The doctor's page: one line a check, whatever the number of hosts; then the remedies and the verdict."""

from __future__ import annotations

from collections import Counter

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mvd_ds.tools.doctor.findings import Finding, HostReport, State, worst

STYLES: dict[State, str] = {"ok": "green", "warn": "yellow", "bad": "bold red"}
#: Number of hosts named in one line.
NAMED = 8


def print_page(reports: list[HostReport], group: list[Finding]) -> None:
    """Print the page on standard output."""
    # Without a terminal the page is 160 columns wide, so that lines of a log are not folded.
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    console.print(build_page(reports, group))


def build_page(reports: list[HostReport], group: list[Finding]) -> Group:
    """Return the page: the table of checks, the remedies, the verdict."""
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", header_style="bold")
    table.add_column("")
    table.add_column("check")
    table.add_column("found", overflow="fold")
    names = dict.fromkeys(finding.name for report in reports for finding in report.findings)
    for name in names:
        _add_check(table, name, reports)
    for finding in group:
        table.add_row(_mark(finding.state), f"{finding.name}, all", Text(finding.text))
    return Group(table, *_remedies(reports, group), _verdict(reports, group))


def _add_check(table: Table, name: str, reports: list[HostReport]) -> None:
    """Add the lines of one check: hosts with equal findings share a line, the worst come first."""
    found: dict[tuple[State, str], list[str]] = {}
    for report in reports:
        for finding in report.findings:
            if finding.name == name:
                found.setdefault((finding.state, finding.text), []).append(report.host)
    fine = [(text, hosts) for (state, text), hosts in found.items() if state == "ok"]
    rows: list[tuple[State, str, list[str]]] = [(state, text, hosts) for (state, text), hosts in found.items() if state != "ok"]
    if fine:
        text, _ = max(fine, key=lambda item: len(item[1]))
        hosts = [host for _, some in fine for host in some]
        rows.append(("ok", text if len(fine) == 1 else f"{text} (and alike)", hosts))
    for place, (state, text, hosts) in enumerate(sorted(rows, key=lambda row: row[0] == "ok")):
        where = f"{_names(hosts, len(reports))}: " if len(reports) > 1 else ""
        table.add_row(_mark(state), name if place == 0 else "", Text(where + text))


def _names(hosts: list[str], total: int) -> str:
    if len(hosts) == total:
        return f"all {total}"
    more = f" and {len(hosts) - NAMED} more" if len(hosts) > NAMED else ""
    return ", ".join(hosts[:NAMED]) + more


def _mark(state: State) -> Text:
    return Text(state, style=STYLES[state])


def _remedies(reports: list[HostReport], group: list[Finding]) -> list[Text]:
    """Return each remedy once, with the hosts that need it."""
    needed: dict[tuple[str, str], list[str]] = {}
    for report in reports:
        for finding in report.findings:
            if finding.state != "ok" and finding.remedy:
                needed.setdefault((finding.name, finding.remedy), []).append(report.host)
    for finding in group:
        if finding.state != "ok" and finding.remedy:
            needed.setdefault((finding.name, finding.remedy), []).append("all")
    if not needed:
        return []
    lines = [Text("\nTo mend it:", style="bold")]
    for (name, remedy), hosts in needed.items():
        where = f" on {_names(hosts, len(reports))}" if len(reports) > 1 and hosts != ["all"] else ""
        lines.append(Text(f"  {name}{where}: {remedy}"))
    return lines


def _verdict(reports: list[HostReport], group: list[Finding]) -> Text:
    sick = [report for report in reports if not report.healthy]
    states = Counter(finding.state for report in reports for finding in report.findings) + Counter(
        finding.state for finding in group
    )
    if not sick and worst(group) != "bad":
        who = f"{reports[0].host} is" if len(reports) == 1 else f"all {len(reports)} hosts are"
        doubts = f", {states['warn']} warning{'s' * (states['warn'] != 1)}" if states["warn"] else ""
        return Text(f"\n{who} healthy{doubts}", style=STYLES["ok"])
    lines = [f"\n{len(reports) - len(sick)} of {len(reports)} hosts healthy"]
    lines += [f"  {report.host}: {'; '.join(report.reasons)}" for report in sick]
    lines += [f"  together: {finding.text}" for finding in group if finding.state == "bad"]
    return Text("\n".join(lines), style=STYLES["bad"])
