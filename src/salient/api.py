"""The verbs of Salient, with the words of the command line. Wires the floors, computes nothing.

report = quantize("smollm2-135m", "out", scheme="w4-g64") report = evaluate("out",
reference="smollm2-135m") report = inspect("out") model, tokenizer = load("out")
"""

from collections.abc import Callable, Sequence
from typing import Any

from salient.core.report import Report

Progress = Callable[
    [int, int, str, str], None
]  # steps done, steps in all, what is being done, a word on the last step


def silent(done: int, total: int, doing: str, note: str) -> None:
    """A progress that shows nothing."""


def quantize(
    model: str,
    output: str | None = None,
    *,
    scheme: str = "w4-g128",
    format: str = "awq",
    calibration: str = "builtin",
    samples: int = 128,
    sequence_length: int = 512,
    skip: Sequence[str] = (),
    device: str = "auto",
    dtype: str = "auto",
    adapter: str | None = None,
    fresh: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> Report:
    """Quantize `model` (folder, Hub id or 'smollm2-135m') into the folder `output`.

    Goes on with an unfinished run.

    Raises SalientError with what was found, what fits and what to do next.
    """
    from salient.awq.job import Request
    from salient.awq.quantizer import quantize_model

    request = Request(
        model,
        output,
        scheme,
        format,
        calibration,
        samples,
        sequence_length,
        tuple(skip),
        device,
        dtype,
        adapter,
    )
    return quantize_model(request, fresh=fresh, dry_run=dry_run, progress=progress)


def inspect(model: str, *, progress: Progress = silent) -> Report:
    """What is in a checkpoint: format, scheme, layers, sizes, evidence if it has any.

    Of a 16-bit model: its kinds of blocks as `quantize` will see them, with their scale groups,
    absorbers, readers and proof errors, and what stays at 16 bits.
    """
    from salient.models.inspection import inspect_checkpoint

    return inspect_checkpoint(model, progress)


def evaluate(
    checkpoint: str,
    *,
    reference: str,
    text: Sequence[str] = (),
    windows: int = 16,
    window_length: int = 512,
    device: str = "auto",
    progress: Progress = silent,
) -> Report:
    """KL, top-1 and perplexity of `checkpoint` against `reference` over the same windows."""
    from salient.awq.evaluation import evaluate_checkpoint

    return evaluate_checkpoint(
        checkpoint, reference, tuple(text), windows, window_length, device, progress
    )


def load(checkpoint: str, *, dtype: str = "auto", device: str = "cpu") -> tuple[Any, Any]:
    """(model, tokenizer): a Transformers model with the checkpoint's weights, dequantized.

    Exact in float32, which is `dtype` 'auto'.
    """
    from salient.models.whole import load_dequantized

    return load_dequantized(checkpoint, dtype, device)
