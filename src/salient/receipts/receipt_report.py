"""Receipts for the terminal."""

import json
from collections.abc import Sequence

from salient.core.records import to_json
from salient.core.report import Report, Table, duration
from salient.validate.likelihood.stratum_figures import Estimate, StratumFigures

from .receipt_record import PairedTest, Receipt
from .verification import LISTED, TOLERANCE, Verification

MEASURES = ("KL (nats)", "KL 99 %", "KL 99.9 %", "KL max", "top-1", "PPL ratio")


def receipt_report(receipt: Receipt, written: Sequence[str] = ()) -> Report:
    """The report of a receipt. It passes unless the calibration text holds text of the panel."""
    checkpoint, panel, noise = receipt.checkpoint, receipt.panel, receipt.noise
    rows = [_row("all", receipt.figures), *(_row(n, f) for n, f in receipt.strata.items())]
    title = (
        f"{checkpoint.name} against {receipt.reference.name}: {panel.positions:,} positions, "
        f"{panel.documents} documents"
    )
    columns = ("text", "positions", *MEASURES)
    table = Table(title, columns, rows, optional=("KL 99 %", "KL max", "positions"))
    lines = [
        f"Panel {panel.name} {panel.digest[:12]}; checkpoint {checkpoint.digest[:12]}; reference "
        f"{receipt.reference.digest[:12]}. Intervals: 95 %, bootstrap over documents.",
        f"Noise floor (reference against itself: {noise.computed}): KL {noise.kl:.2g}, largest "
        f"{noise.kl_max:.2g}; the checkpoint's KL shifts by {noise.kl_shift:.2g}. "
        + ("The checkpoint is above it." if receipt.measurable else "The checkpoint's KL is below "
           "it: not measurable."),
        _overlap_line(receipt),
        *([paired_line(receipt.paired)] if receipt.paired else []),
        *(f"Note: {note}" for note in panel.notes),
        *written,
        f"Took {duration(receipt.seconds)}.",
    ]  # fmt: skip
    return Report(to_json(receipt), [table], lines, receipt.calibration.status != "overlap")


def _row(name: str, figures: StratumFigures) -> tuple[str, ...]:
    return (
        name,
        f"{figures.positions:,}",
        _with_ends(figures.kl, ".5f"),
        f"{figures.kl_p99.value:.4f}",
        f"{figures.kl_p999.value:.4f}",
        f"{figures.kl_max:.4f}",
        f"{figures.top1.value:.2%}",
        _with_ends(figures.perplexity_ratio, ".4f"),
    )


def _with_ends(estimate: Estimate, form: str) -> str:
    """A figure with its interval on a second line."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}}\n{estimate.low:{form}} to {estimate.high:{form}}"


def _overlap_line(receipt: Receipt) -> str:
    check = receipt.calibration
    runs = f"{check.shingles:,} runs of {check.run_length} words in the panel"
    if check.status == "overlap":
        return (
            f"FAILED: {check.shared:,} of the {runs} stand in the calibration text "
            f"{check.calibration} ({', '.join(check.documents)}): the figures are flattering. Use "
            "another --panel."
        )
    if check.status == "apart":
        return f"None of the {runs} stands in the calibration text ({check.calibration})."
    return f"Whether the panel stands in the calibration text is unknown: {check.reason}."


def paired_line(test: PairedTest) -> str:
    """The verdict of a paired test as one line."""
    apart = "" if test.apart is None else f" The two are {test.apart:.3g} nats apart"
    differ = {True: "above", False: "below"}[test.differs]
    return (
        f"Against {test.other}: {test.verdict} (difference of KL {test.kl.value:+.3g}, p = "
        f"{test.p_value:.3g}, {test.documents} documents).{apart or ' Their difference is'}, "
        f"{differ} the noise floor of {test.floor:.2g}."
    )


def verification_report(before: Receipt, after: Receipt, verification: Verification) -> Report:
    """The report of a verification. It passes where all figures agree."""
    like = "this machine is like the receipt's: figures must be equal to the last digit"
    if not verification.like:
        names = "; ".join(f"{k}: {a} -> {b}" for k, (a, b) in verification.engine.items())
        like = f"this machine differs ({names}): figures may differ by {TOLERANCE:g} of themselves"
    rows = [
        (each.figure, f"{each.receipt}", f"{each.measured}")
        for each in verification.differences[:LISTED]
    ]
    tables = [Table("Figures that differ", ("figure", "receipt", "measured"), rows)] if rows else []
    count = len(verification.differences)
    verdict = (
        f"FAILED: {count} of {verification.compared} figures differ."
        if count
        else f"Verified: all {verification.compared} figures agree."
    )
    lines = [
        f"{before.checkpoint.name} against {before.reference.name}, receipt of {before.date}: "
        f"KL {before.figures.kl.value!r}, measured again {after.figures.kl.value!r}.",
        f"Checkpoint, reference and panel have the receipt's digests; {like}.",
        verdict,
    ]
    data = {**json.loads(json.dumps(to_json(verification))), "passed": verification.passed}
    return Report({**data, "measured": to_json(after)}, tables, lines, verification.passed)
