"""Read salient.json, the evidence next to a checkpoint: how it was made and what it lost.

    python examples/read_evidence.py CHECKPOINT

Needs no torch. The records are in src/salient/core/evidence.py.
"""

import sys
from pathlib import Path

from salient.core.errors import SalientError
from salient.core.evidence import read_evidence


def main(folder: str) -> None:
    """Print the run, the loss of the whole model, and the blocks that lost most."""
    evidence = read_evidence(Path(folder))
    if evidence is None:
        raise SystemExit(f"{folder} has no salient.json.")
    run, heldout = evidence.run, evidence.heldout
    print(f"{evidence.model}: {run.scheme}, {run.samples} samples of {run.sequence_length} tokens")
    for label, figures in (("plain rounding", heldout.plain), ("as written", heldout.awq)):
        print(f"{label:>15}: KL {figures.kl:.4f}, top-1 {figures.top1:.1%}")
    for block in sorted(evidence.blocks, key=lambda block: -block.error_awq)[:5]:
        print(f"{block.block}: error {block.error_awq:.2e}, plain rounding {block.error_plain:.2e}")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except SalientError as error:
        sys.exit(str(error))
