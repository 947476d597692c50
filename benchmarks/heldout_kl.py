"""Compare every checkpoint with the 16-bit model, by the same code, on the same windows.

Rounding to nearest is computed here: the reference with each linear that Salient quantized rounded
to the nearest code of its group's range, by Salient's rounding. The others are read from their
folders and dequantized exactly. All run in float32, so only the codes differ. All are in memory at
once, so the reference runs once; this requires small models.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salient import api
from salient.core.metrics import LogitsComparison, compare_logits
from salient.core.quant import quantize
from salient.core.scheme import parse_scheme
from salient.formats.checkpoint import open_checkpoint
from subprocess_run import log_step

PLAIN = "plain-rounding"
Verdict = dict[str, dict[str, LogitsComparison]]  # text -> quantizer -> its comparison


@torch.inference_mode()
def judge(reference: str, checkpoints: dict[str, Path], windows: dict[str, Tensor]) -> Verdict:
    """Compare rounding to nearest and `checkpoints` with `reference` on each text's windows."""
    linears = same_linears(checkpoints)
    rounded = round_to_nearest(reference, linears, checkpoints["salient-awq"])
    models = {name: loaded(str(folder)) for name, folder in checkpoints.items()}
    judged, models = loaded(reference), {PLAIN: rounded, **models}
    comparisons: Verdict = {text: {name: LogitsComparison() for name in models} for text in windows}
    for text, ids in windows.items():
        for number, window in enumerate(ids, 1):
            log_step(f"measuring {text}: window {number} of {len(ids)}")
            expected = logits(judged, window)
            for name, model in models.items():
                comparisons[text][name].add(compare_logits(expected, logits(model, window), window))
    return comparisons


def same_linears(checkpoints: dict[str, Path]) -> set[str]:
    """The quantized linears; exits unless they are the same in every checkpoint."""
    quantized = {name: quantized_linears(folder) for name, folder in checkpoints.items()}
    ours = quantized["salient-awq"]
    for name, theirs in quantized.items():
        if odd := sorted(ours ^ theirs):
            raise SystemExit(f"salient-awq and {name} quantize different linears: {odd[:3]} ...")
    return ours


def quantized_linears(folder: Path) -> set[str]:
    """The names of the linears that the checkpoint in `folder` stores as codes."""
    stored = open_checkpoint(folder)
    modules = (name.removesuffix(".weight") for name in stored.parameter_names())
    return {module for module in modules if stored.is_quantized(module)}


def round_to_nearest(reference: str, linears: set[str], salient: Path) -> Any:
    """`reference` with `linears` rounded to nearest, in the scheme and 16-bit type of `salient`."""
    run = json.loads((salient / "salient.json").read_text())["run"]
    scheme, dtype = parse_scheme(run["scheme"]), getattr(torch, run["dtype"])
    model = loaded(reference)
    for name in sorted(linears):
        weight = model.get_submodule(name).weight
        weight.copy_(quantize(weight, scheme, name=name, dtype=dtype).dequantize())
    return model


def loaded(checkpoint: str) -> Any:
    """The model of a folder in float32, its codes dequantized."""
    model, _ = api.load(checkpoint, dtype="float32")
    return model.eval()


def logits(model: Any, window: Tensor) -> Tensor:
    """The logits [tokens, vocab] of one window [tokens]."""
    return model(window[None], use_cache=False).logits[0]
