"""What the verbs return: typed fields, and the report that the command line prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from salient.compare.contestant_results import Comparison
    from salient.core.evidence import RunEvidence
    from salient.core.report import Report
    from salient.diagnose.finding import Finding
    from salient.formats.checkpoint import Checkpoint
    from salient.loadtest.result import LoadResult
    from salient.plan.planner import DevicePlan
    from salient.receipts.receipt_record import Receipt
    from salient.receipts.verification import Verification
    from salient.runtime.bench.bench_report import BenchRow
    from salient.runtime.sequence import TokenSequence
    from salient.validate.likelihood.token_panel import TokenPanel
    from salient.validate.policy.verdict import Verdict
    from salient.validate.result import ValidationResult


@dataclass(frozen=True)
class VerbResult:
    """report: everything that the verb found, as tables, lines and plain data"""

    report: Report

    @property
    def passed(self) -> bool:
        """Whether the verdict is positive, for verbs that have one."""
        return self.report.passed

    @property
    def exit_code(self) -> int:
        """The command line's exit code."""
        return 0 if self.passed else 1


@dataclass(frozen=True)
class QuantizeResult(VerbResult):
    """A checkpoint, or with `dry_run` what it would be. evidence: None for a dry run"""

    output: Path
    scheme: str
    evidence: RunEvidence | None

    @property
    def kl(self) -> float | None:
        """Nats per token against the model on held-out text; None for a dry run."""
        return self.evidence.heldout.awq.kl if self.evidence else None


@dataclass(frozen=True)
class InspectResult(VerbResult):
    """A model folder, 16-bit or quantized."""

    checkpoint: Checkpoint

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.checkpoint.folder

    @property
    def format(self) -> str | None:
        """The name of the checkpoint's format; None for a 16-bit model."""
        return self.checkpoint.format.name if self.checkpoint.format else None

    @property
    def scheme(self) -> str | None:
        """The names of the checkpoint's schemes, the main one first; None for a 16-bit model."""
        return str(self.checkpoint.schemes) if self.checkpoint.schemes else None


@dataclass(frozen=True)
class ConvertResult(VerbResult):
    """A checkpoint in another format."""

    @property
    def output(self) -> Path:
        """The folder."""
        return Path(str(self.report.data["output"]))


@dataclass(frozen=True)
class ExportResult(VerbResult):
    """A file of another engine."""

    @property
    def output(self) -> Path:
        """The file."""
        return Path(str(self.report.data["output"]))


@dataclass(frozen=True)
class PushResult(VerbResult):
    """An upload. url: of its commit, '' for a dry run"""

    url: str


@dataclass(frozen=True)
class PlanResult(VerbResult):
    """The ranked formats on each device. Empty where no device was named.

    undecided: the model's shape is counted too roughly to decide
    """

    devices: tuple[DevicePlan, ...]
    undecided: bool = False

    @property
    def exit_code(self) -> int:
        """2 if undecided."""
        return 2 if self.undecided else super().exit_code


@dataclass(frozen=True)
class DoctorResult(VerbResult):
    """Findings, the worst first.

    sources: what was read
    undecided: nothing is wrong or slow in what was read, but the log ends before the server answers
    """

    findings: tuple[Finding, ...]
    sources: tuple[str, ...]
    undecided: bool = False

    @property
    def exit_code(self) -> int:
        """2 if undecided: it could not be judged."""
        return 2 if self.undecided else super().exit_code


@dataclass(frozen=True)
class EvaluateResult(VerbResult):
    """What a checkpoint lost. measured: the result of each stage"""

    measured: ValidationResult


@dataclass(frozen=True)
class ValidateResult(EvaluateResult):
    """What a checkpoint lost, judged by a policy."""

    verdict: Verdict

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 2 could not be measured."""
        return self.verdict.exit_code


@dataclass(frozen=True)
class ReceiptResult(VerbResult):
    """A receipt, written or measured again. verification: None for a new one"""

    receipt: Receipt
    verification: Verification | None = None


@dataclass(frozen=True)
class CompareResult(VerbResult):
    """Contestants on one panel."""

    comparison: Comparison


@dataclass(frozen=True)
class PanelResult(VerbResult):
    """A panel that was written."""

    panel: TokenPanel


@dataclass(frozen=True)
class LoadTestResult(VerbResult):
    """Latencies and throughput of each step."""

    steps: tuple[LoadResult, ...]


@dataclass(frozen=True)
class GenerateResult(VerbResult):
    """The answer to each prompt. sequences: their tokens and times"""

    texts: tuple[str, ...]
    sequences: tuple[TokenSequence, ...]


@dataclass(frozen=True)
class BenchResult(VerbResult):
    """One row for each kernel."""

    rows: tuple[BenchRow, ...]
