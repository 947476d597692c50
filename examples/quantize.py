"""Quantize a model from Python, and show what it lost.

    python examples/quantize.py MODEL OUTPUT [SCHEME]

MODEL is a folder, a Hub id or 'smollm2-135m'. An interrupted run resumes.
"""

import sys

import salient
from salient.core.errors import SalientError
from salient.core.progress import Progress


def print_step(done: int, total: int, action: str, note: str) -> None:
    if note:  # the end of a block
        print(f"[{done}/{total}] {action}  {note}")


def main(model: str, output: str, scheme: str = "auto", samples: int = 128) -> float | None:
    """Quantize `model`; KL on held-out text, in nats per token."""
    result = salient.quantize(
        model, output, scheme=scheme, samples=samples, progress=Progress(print_step)
    )
    print(f"{result.output}: {result.scheme}, KL {result.kl:.4f} nats per token")
    return result.kl


if __name__ == "__main__":
    try:
        main(*sys.argv[1:4])
    except SalientError as error:
        sys.exit(str(error))
