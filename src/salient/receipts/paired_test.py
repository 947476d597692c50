"""Which of two checkpoints is better: a paired test over the documents of one panel.

Both are measured at the same positions, so their difference is far better known than either figure.
Documents are the pairs. Two models also differ where neither is better: their own KL says so.
"""

import numpy as np

from salient.core.errors import RequestError
from salient.core.intervals import bootstrap_ratio, sign_flip
from salient.validate.likelihood.stratum_figures import estimate

from .receipt_record import DocumentSums, PairedTest, Receipt

LEVEL = 0.05  # of the p-value


def paired_test(
    own: DocumentSums,
    other: DocumentSums,
    names: tuple[str, str],
    floors: tuple[float, float],
    apart: float | None,
) -> PairedTest:
    """The test of two checkpoints by their sums over documents.

    names: the other's name and digest
    floors: noise of a KL of two models, and of the difference of two mean KLs
    apart: mean KL between the two checkpoints; None: unknown
    """
    positions = np.array(own.positions, dtype=np.float64)
    counted = positions > 0
    changes = (np.array(own.kl) - np.array(other.kl))[counted]
    positions = positions[counted]
    difference = bootstrap_ratio(changes, positions)
    p_value = sign_flip(changes) if changes.any() else 1.0
    floor = floors[1] if apart is None else floors[0]
    signal = float(np.abs(changes / positions).max()) if apart is None else apart
    differs = signal > floor
    shown = p_value < LEVEL and abs(difference.middle) > floors[1]
    verdict = "better" if difference.middle < 0 else "worse"
    if not shown:
        verdict = "no difference shown" if differs else "not measurable"
    return PairedTest(
        *names, len(changes), estimate(difference), p_value, floor, apart, differs, verdict
    )


def check_same_ground(own: Receipt, other: Receipt, name: str) -> None:
    """Raise RequestError where two receipts are of other references or panels."""
    for what, here, there in (
        ("reference", own.reference.digest, other.reference.digest),
        ("panel", own.panel.digest, other.panel.digest),
    ):
        if here != there:
            raise RequestError(
                f"--against {name} was measured with another {what} ({there[:12]}, not "
                f"{here[:12]}). Measure both with the same --reference and --panel."
            )
