"""Findings as a report: text for people, data for programs."""

from dataclasses import asdict, replace

from salient.core.printable import printable_line
from salient.core.report import Report, Table

from .doctor import Diagnosis
from .finding import SECURITY, Finding
from .rule import Count

_LABELS = {"error": "ERROR", "slow": "SLOW", "warning": "WARNING", "note": "note", "good": "good"}
_ADJECTIVES = {"error": "wrong", "slow": "slow", "warning": "doubtful"}
MAX_PLACES = 3  # places of a finding that are shown
MAX_WIDTH = 240  # characters of a line of a log


def to_report(diagnosis: Diagnosis) -> Report:
    """The verb's report; it fails if anything is wrong or slow."""
    lines = [f"Read {'; '.join(diagnosis.read)}."]
    for finding in _shown(diagnosis):
        lines += finding_lines(finding)
    hidden = len(diagnosis.findings) - len(_shown(diagnosis))
    lines += [f"Security: {Count(hidden):hint}, shown by --security."] if hidden else []
    lines.append(summary(diagnosis))
    tables: list[Table] = []
    if diagnosis.engines:
        rows = [(f"{r.engine}, {r.device}", r.kernel, r.pace, r.why) for r in diagnosis.engines]
        columns = ("engine, device", "kernel", "pace", "why")
        tables.append(Table("Engines that load it", columns, rows, text_columns=columns[1:]))
    passed = not (diagnosis.bad or diagnosis.undecided)
    return Report(_data(diagnosis), tables, lines, passed=passed)


def _shown(diagnosis: Diagnosis) -> list[Finding]:
    return [one for one in diagnosis.findings if diagnosis.security or one.id not in SECURITY]


def summary_report(diagnosis: Diagnosis) -> Report:
    """The report of a followed log, whose findings have been shown: its line is the summary."""
    return replace(to_report(diagnosis), lines=[summary(diagnosis)])


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


def summary(diagnosis: Diagnosis) -> str:
    """The number of findings of each level, or that nothing is wrong, as far as can be judged."""
    levels = [finding.level for finding in _shown(diagnosis)]
    counts = {level: levels.count(level) for level in _ADJECTIVES}
    if diagnosis.bad:
        parts = [f"{counts[level]} {word}" for level, word in _ADJECTIVES.items() if counts[level]]
        return f"Found: {', '.join(parts)}."
    tail = f" Doubtful: {counts['warning']}." if counts["warning"] else ""
    if diagnosis.undecided:
        return (
            f"Not judged: {diagnosis.not_judged.rstrip('.')}. Nothing wrong or slow before.{tail}"
        )
    return f"Nothing found that is wrong or slow.{tail}"


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
