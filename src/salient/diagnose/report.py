"""Findings as a report: text for people, data for programs."""

from dataclasses import asdict, replace

from salient.core.printable import printable_line
from salient.core.report import Report, Table

from .doctor import Diagnosis
from .finding import BAD, Finding

_LABELS = {"error": "ERROR", "slow": "SLOW", "warning": "WARNING", "note": "note", "good": "good"}
_ADJECTIVES = {"error": "wrong", "slow": "slow", "warning": "doubtful"}
MAX_PLACES = 3  # places of a finding that are shown
MAX_WIDTH = 240  # characters of a line of a log


def to_report(diagnosis: Diagnosis) -> Report:
    """The verb's report; it fails if anything is wrong or slow."""
    lines = [f"Read {'; '.join(diagnosis.read)}."]
    for finding in diagnosis.findings:
        lines += finding_lines(finding)
    lines.append(summary(diagnosis.findings))
    tables: list[Table] = []
    if diagnosis.engines:
        rows = [(f"{r.engine}, {r.device}", r.kernel, r.pace, r.why) for r in diagnosis.engines]
        columns = ("engine, device", "kernel", "pace", "why")
        tables.append(Table("Engines that load it", columns, rows, text_columns=columns[1:]))
    bad = any(finding.level in BAD for finding in diagnosis.findings)
    return Report(_data(diagnosis), tables, lines, passed=not bad)


def summary_report(diagnosis: Diagnosis) -> Report:
    """The report of a followed log, whose findings have been shown: its line is the summary."""
    return replace(to_report(diagnosis), lines=[summary(diagnosis.findings)])


def finding_lines(finding: Finding) -> list[str]:
    """One finding: meaning, places, reason, steps."""
    certainty = "" if finding.certainty == "certain" else f" ({finding.certainty})"
    lines = [f"{_LABELS[finding.level]}: {finding.title}{certainty} [{finding.id}]"]
    lines += [f"    {one.where}: {_printable(one.text)}" for one in finding.evidence[:MAX_PLACES]]
    more = finding.count - min(MAX_PLACES, len(finding.evidence))
    if finding.evidence and more > 0:
        lines.append(f"    and {more:,} more")
    if finding.why:
        lines.append(f"    why: {finding.why}")
    return [printable_line(line) for line in (*lines, *(f"    do: {step}" for step in finding.do))]


def _printable(text: str) -> str:
    """One line of a log without characters that move a terminal's cursor."""
    shown = "".join(c if c.isprintable() else " " for c in text[: MAX_WIDTH + 1]).strip()
    return shown if len(text) <= MAX_WIDTH else shown[:MAX_WIDTH] + " ..."


def summary(findings: list[Finding]) -> str:
    """The number of findings of each level, or that nothing is wrong."""
    counts = {level: sum(f.level == level for f in findings) for level in _ADJECTIVES}
    if not any(counts[level] for level in BAD):
        tail = f" Doubtful: {counts['warning']}." if counts["warning"] else ""
        return f"Nothing found that is wrong or slow.{tail}"
    parts = [f"{counts[level]} {word}" for level, word in _ADJECTIVES.items() if counts[level]]
    return f"Found: {', '.join(parts)}."


def _data(diagnosis: Diagnosis) -> dict[str, object]:
    reading = diagnosis.checkpoint
    names = ("method", "group", "zeros", "bits", "modules", "bytes")
    return {
        "read": diagnosis.read,
        "findings": [finding.to_dict() for finding in diagnosis.findings],
        "facts": diagnosis.facts.to_dict() if diagnosis.facts else None,
        "checkpoint": reading
        and {"folder": str(reading.folder)} | {name: getattr(reading, name) for name in names},
        "loaders": [asdict(engine) for engine in diagnosis.engines],
    }
