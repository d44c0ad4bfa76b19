"""Findings of checks, reports of hosts, and the line in which one doctor answers another."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

State = Literal["ok", "warn", "bad"]
#: All states, from best to worst.
STATES: tuple[State, ...] = ("ok", "warn", "bad")

#: Beginning of an answer's line, which tells it from the greetings of a login shell around it.
ANSWER = "MVD_DS_DOCTOR "


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        name: name of the check.
        state: ok; warn: training runs, but worse than it could; bad: something that stops training.
        text: the finding, with its numbers.
        remedy: the command or step that mends it.
        facts: numbers and versions that are compared between hosts.
    """

    name: str
    state: State
    text: str
    remedy: str = ""
    facts: Mapping[str, float | str] = {}


Check = Callable[[], Finding]


class HostReport(NamedTuple):
    """The findings on one host."""

    host: str
    findings: list[Finding]

    @property
    def reasons(self) -> list[str]:
        """Return why training cannot run there; empty for a healthy host."""
        return [f"{finding.name}: {finding.text}" for finding in self.findings if finding.state == "bad"]

    @property
    def healthy(self) -> bool:
        """Return whether nothing was found that stops training."""
        return not self.reasons

    def fact(self, check: str, name: str) -> float | str | None:
        """Return fact ``name`` of a check, None if the check did not find it."""
        return next((finding.facts.get(name) for finding in self.findings if finding.name == check), None)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values: healthy, reasons, findings."""
        findings = [{**finding._asdict(), "facts": dict(finding.facts)} for finding in self.findings]
        return {"healthy": self.healthy, "reasons": self.reasons, "findings": findings}


def run_checks(checks: Mapping[str, Check]) -> list[Finding]:
    """Run all ``checks`` and return their findings; a check that raises is a finding, too."""
    findings = []
    for name, check in checks.items():
        try:
            findings.append(check())
        except Exception as error:  # A doctor that dies of what it looks at helps nobody.
            reason = str(error).strip().splitlines()[:1] or [""]
            findings.append(Finding(name, "bad", f"could not be checked: {type(error).__name__}: {reason[0]}"))
    return findings


def worst(findings: list[Finding]) -> State:
    """Return the worst state among ``findings``."""
    return max((finding.state for finding in findings), key=STATES.index, default="ok")


def to_answer(values: Any) -> str:
    """Return ``values`` as a line that ``from_answer`` finds in an output."""
    return ANSWER + json.dumps(values)


def from_answer(output: str) -> Any | None:
    """Return the values of the last answer in an output, None if there is none."""
    lines = [line for line in output.splitlines() if line.startswith(ANSWER)]
    return json.loads(lines[-1].removeprefix(ANSWER)) if lines else None


def findings_of(values: list[dict[str, Any]]) -> list[Finding]:
    """Return findings from their JSON."""
    return [Finding(**value) for value in values]
