"""Compare every checkpoint with the 16-bit model, by the same code, on the same windows.

Checkpoints are read by `dequantized.py`, the reference by Transformers; all run in float32, so only
the codes differ. Rounding to nearest is computed here. All are in memory at once, so the reference
runs once; this requires small models.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from dequantized import load_plain, quantized_linears
from salient.core.scheme import Scheme
from subprocess_run import log_step

PLAIN = "plain-rounding"
RESAMPLES = 2000  # of the bootstrap
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class WindowMeans:
    """Means over the tokens of each window: float64 [windows].

    kl: KL(reference || quantized), nats   top1: share of equal first choices
    loss, reference_loss: of the next token, nats
    """

    kl: Tensor
    top1: Tensor
    loss: Tensor
    reference_loss: Tensor

    def figures(self) -> dict[str, float]:
        """The means over all windows."""
        return {
            "kl": float(self.kl.mean()),
            "top1": float(self.top1.mean()),
            "perplexity_quantized": float(self.loss.mean().exp()),
            "perplexity_reference": float(self.reference_loss.mean().exp()),
        }


Verdict = dict[str, dict[str, WindowMeans]]  # text -> quantizer -> its means


@torch.inference_mode()
def judge(
    reference: Path, checkpoints: Mapping[str, Path], windows: dict[str, Tensor], scheme: Scheme
) -> Verdict:
    """Compare rounding to nearest and `checkpoints` with `reference` on each text's windows."""
    original = _reference(reference)
    models = {name: load_plain(folder) for name, folder in checkpoints.items()}
    models[PLAIN] = _reference(reference)
    round_to_nearest(models[PLAIN], same_linears(checkpoints), scheme)
    verdict: Verdict = {}
    for text, ids in windows.items():
        rows: dict[str, list[Tensor]] = {name: [] for name in models}
        for number, window in enumerate(ids, 1):
            log_step(f"measuring {text}: window {number} of {len(ids)}")
            expected = _log_probabilities(original, window)
            for name, model in models.items():
                rows[name].append(_means(expected, _log_probabilities(model, window), window))
        verdict[text] = {
            name: WindowMeans(*torch.stack(means).unbind(1)) for name, means in rows.items()
        }
    return verdict


def _reference(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(requires_grad=False)


def _log_probabilities(model: Any, window: Tensor) -> Tensor:
    """Of one window [tokens]: float32 [tokens, vocab]."""
    return model(window[None], use_cache=False).logits[0].float().log_softmax(-1)


def _means(expected: Tensor, measured: Tensor, window: Tensor) -> Tensor:
    """The fields of WindowMeans of one window, in order: float64 [4]."""
    kl = (expected.exp() * (expected - measured)).sum(-1)
    same = (expected.argmax(-1) == measured.argmax(-1)).double()
    following = window[1:, None]
    losses = (-x[:-1].gather(1, following) for x in (measured, expected))
    return torch.stack([values.double().mean() for values in (kl, same, *losses)])


def same_linears(checkpoints: Mapping[str, Path]) -> set[str]:
    """The quantized linears; exits unless they are the same in every checkpoint."""
    quantized = {name: quantized_linears(folder) for name, folder in checkpoints.items()}
    (first, linears), *others = quantized.items()
    for name, theirs in others:
        if odd := sorted(linears ^ theirs):
            raise SystemExit(f"{first} and {name} quantize different linears: {odd[:3]} ...")
    return linears


def round_to_nearest(model: Any, linears: Iterable[str], scheme: Scheme) -> None:
    """Round `linears` of `model` to the nearest code of each group's range, in place."""
    weights = dict(model.named_parameters())
    for name in linears:
        module, _, leaf = name.rpartition(".")
        parameter = f"{name}.weight"
        if parameter in weights:
            weight = weights[parameter]
            weight.copy_(nearest(weight, scheme))
        else:  # experts that Transformers keeps in one tensor
            _round_expert(weights, module, leaf, scheme)


def _round_expert(weights: dict[str, Tensor], module: str, leaf: str, scheme: Scheme) -> None:
    """Round one projection of one expert within the fused tensors of its layer."""
    experts, _, number = module.rpartition(".")
    fused = weights[f"{experts}.{'down_proj' if leaf == 'down_proj' else 'gate_up_proj'}"]
    weight = fused[int(number)]
    if leaf != "down_proj":
        weight = weight.chunk(2)[leaf == "up_proj"]
    weight.copy_(nearest(weight, scheme))


def nearest(weight: Tensor, scheme: Scheme) -> Tensor:
    """`weight` [out, in] with each group rounded to the codes of its range, zero included."""
    groups = weight.unflatten(1, (-1, scheme.group_size))
    codes = 2**scheme.bits
    low = groups.amin(-1, keepdim=True).clamp(max=0)
    span = groups.amax(-1, keepdim=True).clamp(min=0) - low
    if scheme.symmetric:
        span = 2 * groups.abs().amax(-1, keepdim=True)
    scale = (span / (codes - 1)).half().float().clamp(min=1e-8)
    zero = torch.full_like(scale, codes / 2) if scheme.symmetric else (-low / scale).round()
    rounded = (groups / scale + zero).round().clamp(0, codes - 1)
    return ((rounded - zero) * scale).flatten(1)


def ratio_interval(ours: list[Tensor], theirs: list[Tensor]) -> tuple[float, float, float]:
    """The ratio of mean KLs and its 95 % interval, by a paired bootstrap over windows.

    One tensor [windows] per text; of several texts the geometric mean of their ratios.
    """
    generator = torch.Generator().manual_seed(0)
    samples, point = torch.zeros(RESAMPLES, dtype=torch.float64), 0.0
    for one, other in zip(ours, theirs, strict=True):
        picks = torch.randint(len(one), (RESAMPLES, len(one)), generator=generator)
        samples += (one[picks].mean(1) / other[picks].mean(1)).log() / len(ours)
        point += float((one.mean() / other.mean()).log()) / len(ours)
    low, high = samples.quantile(torch.tensor(INTERVAL, dtype=torch.float64)).exp().tolist()
    return math.exp(point), low, high
