"""Every contestant against the 16-bit model, by one piece of code, on the same windows.

Plain rounding is made here: the reference with each linear that Salient quantized rounded to the
nearest code of its group's own range, by Salient's one rounding. The others are read from their
folders and dequantized exactly. All run in float32, so the figures are the codes' alone. All are in
memory at once, which small models allow and which spares running the reference for each.
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
from subprocess_run import say

PLAIN = "plain-rounding"
Verdict = dict[str, dict[str, LogitsComparison]]  # text -> contestant -> its comparison


@torch.inference_mode()
def judge(reference: str, checkpoints: dict[str, Path], windows: dict[str, Tensor]) -> Verdict:
    """Compare plain rounding and `checkpoints` with `reference` on the windows of each text."""
    linears = same_linears(checkpoints)
    rounded = plainly_rounded(reference, linears, checkpoints["salient-awq"])
    models = {name: loaded(str(folder)) for name, folder in checkpoints.items()}
    judged, models = loaded(reference), {PLAIN: rounded, **models}
    found: Verdict = {text: {name: LogitsComparison() for name in models} for text in windows}
    for text, ids in windows.items():
        for number, window in enumerate(ids, 1):
            say(f"measuring {text}: window {number} of {len(ids)}")
            expected = logits(judged, window)
            for name, model in models.items():
                found[text][name].add(compare_logits(expected, logits(model, window), window))
    return found


def same_linears(checkpoints: dict[str, Path]) -> set[str]:
    """The linears that are quantized, the same in every checkpoint, or the benchmark stops."""
    quantized = {name: quantized_linears(folder) for name, folder in checkpoints.items()}
    ours = quantized["salient-awq"]
    for name, theirs in quantized.items():
        if odd := sorted(ours ^ theirs):
            raise SystemExit(f"salient-awq and {name} differ in what is quantized: {odd[:3]} ...")
    return ours


def quantized_linears(folder: Path) -> set[str]:
    """The names of the linears that the checkpoint in `folder` stores as codes."""
    stored = open_checkpoint(folder)
    modules = (name.removesuffix(".weight") for name in stored.parameter_names())
    return {module for module in modules if stored.is_quantized(module)}


def plainly_rounded(reference: str, linears: set[str], salient: Path) -> Any:
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
