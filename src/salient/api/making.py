"""Verbs that make and show checkpoints."""

from collections.abc import Sequence
from typing import Any

from salient.core.progress import Progress, silent
from salient.core.report import Report


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
    from salient.awq.job import QuantizeOptions
    from salient.awq.quantize import quantize_model

    request = QuantizeOptions(
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


def inspect(model: str, *, runtime: bool = False, progress: Progress = silent) -> Report:
    """What is in a checkpoint: format, scheme, layers, sizes, evidence if it has any.

    With `runtime`: how it runs on this machine, which kernels, what was fused and what not, why.

    Of a 16-bit model: its kinds of blocks as `quantize` will see them, with their scale groups,
    absorbers, readers and proof errors, and what stays at 16 bits.
    """
    if runtime:
        from salient.runtime.inspect_runtime import inspect_runtime
        from salient.runtime.load_engine import EngineOptions

        return inspect_runtime(model, EngineOptions())
    from salient.models.inspect import inspect_checkpoint

    return inspect_checkpoint(model, progress)


def load(checkpoint: str, *, dtype: str = "auto", device: str = "cpu") -> tuple[Any, Any]:
    """(model, tokenizer): a Transformers model with the checkpoint's weights, dequantized.

    Exact in float32, which is `dtype` 'auto'.
    """
    from salient.models.model_folder import load_dequantized

    return load_dequantized(checkpoint, dtype, device)
