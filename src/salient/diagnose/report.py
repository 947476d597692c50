"""Findings for people and for programs."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from salient.core.report import Report, Table

from .doctor import Diagnosis, DoctorOptions, findings_of
from .finding import BAD, Finding

_WORDS = {"error": "ERROR", "slow": "SLOW", "warning": "WARNING", "note": "note", "good": "good"}
SEEN = 3  # places of a finding that are shown
WIDEST = 240  # characters of a line of a log


def to_report(diagnosis: Diagnosis) -> Report:
    """The report of the verb; it says no if anything is wrong or slow."""
    tables, lines = [], [f"Read {'; '.join(diagnosis.read)}."]
    for finding in diagnosis.findings:
        lines += finding_lines(finding)
    if diagnosis.loaders:
        rows = [(f"{r.engine}, {r.device}", r.kernel, r.pace, r.why) for r in diagnosis.loaders]
        tables.append(
            Table(
                "Who loads it",
                ("engine, device", "kernel", "pace", "why"),
                rows,
                words=("kernel", "pace", "why"),
            )
        )
    lines.append(summary(diagnosis.findings))
    bad = any(finding.level in BAD for finding in diagnosis.findings)
    return Report(_data(diagnosis), tables, lines, passed=not bad)


def tell_as_found(
    request: DoctorOptions, heard: Callable[[list[str], dict[str, Any]], None]
) -> Report:
    """Tell `heard` each finding of a growing log as it comes, until Ctrl-C.

    The report has them all as data; its lines are the summary alone, for the rest was told.
    """
    diagnosis = Diagnosis([f"{request.log}, as it grew"])
    with suppress(KeyboardInterrupt):
        for finding in findings_of(request):
            diagnosis.findings.append(finding)
            heard(finding_lines(finding), asdict(finding))
    return replace(to_report(diagnosis), lines=[summary(diagnosis.findings)])


def finding_lines(finding: Finding) -> list[str]:
    """One finding: what it means, where it was seen, why it matters, what to do."""
    sure = "" if finding.certainty == "certain" else f" ({finding.certainty})"
    lines = [f"{_WORDS[finding.level]}: {finding.title}{sure} [{finding.id}]"]
    for seen in finding.evidence[:SEEN]:
        lines.append(f"    {seen.where}: {_printable(seen.text)}")
    more = finding.count - min(SEEN, len(finding.evidence))
    if finding.evidence and more > 0:
        lines.append(f"    and {more:,} more")
    if finding.matters:
        lines.append(f"    why: {finding.matters}")
    return lines + [f"    do: {step}" for step in finding.do]


def _printable(text: str) -> str:
    """One line of a log without what would move a terminal's cursor."""
    shown = "".join(c if c.isprintable() else " " for c in text[: WIDEST + 1]).strip()
    return shown if len(text) <= WIDEST else shown[:WIDEST] + " ..."


def summary(findings: list[Finding]) -> str:
    """How many of each level, or that nothing is wrong."""
    counts = {level: sum(f.level == level for f in findings) for level in _WORDS}
    if not any(counts[level] for level in BAD):
        tail = f" Doubtful: {counts['warning']}." if counts["warning"] else ""
        return f"Nothing found that is wrong or slow.{tail}"
    said = {"error": "wrong", "slow": "slow", "warning": "doubtful"}
    found = [f"{counts[level]} {word}" for level, word in said.items() if counts[level]]
    return f"Found: {', '.join(found)}."


def _data(diagnosis: Diagnosis) -> dict[str, Any]:
    reading = diagnosis.checkpoint
    return {
        "read": diagnosis.read,
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "facts": diagnosis.facts.to_dict() if diagnosis.facts else None,
        "checkpoint": reading
        and {
            "folder": str(reading.folder),
            "method": reading.method,
            "group": reading.group,
            "zeros": reading.zeros,
            "bits": reading.bits,
            "modules": reading.modules,
            "bytes": reading.bytes,
        },
        "loaders": [asdict(loader) for loader in diagnosis.loaders],
    }
