"""How far apart two floating-point results of the same sums may be.

The order of a sum, and whether a product and its sum are rounded once or twice, depend on the
processor and its library, so no test may rely on them. The bounds, with unit roundoff u = eps / 2:

- Any order of n terms: |fl(x . y) - x . y| <= gamma_n |x| . |y|, gamma_n = n u / (1 - n u).
  N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed. (2002), (3.5), and (4.4) for
  plain sums. `worst` is gamma_n, `assert_product` compares with it.
- Roundings of either sign mostly cancel: sqrt(n) takes the place of n with a factor lambda, and
  the bound fails with probability at most 2 exp(-lambda^2 / 2). N. J. Higham and T. Mary, A new
  approach to probabilistic rounding error analysis, SIAM J. Sci. Comput. 41 (2019), theorem 2.4.
  `likely` is this, for chains of products through a model, where gamma_n would allow real faults.

pytest.approx without a tolerance (1e-6 relative) is for arithmetic on Python's float64, where it is
over a billion times u: it allows up to a million operations.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

LAMBDA = 6.0  # 2 exp(-18): 3e-8
F32, F64 = torch.float32, torch.float64
SUBNORMAL = 2**-25  # half a step of float16 below its smallest normal number
CODES = 2**-16  # of a group's largest activation: half a step of the C++ kernels' int16 activations
PEAK = 3.5  # largest over root mean square of a group of activations: 3.5 standard deviations
TOY_VOCABULARY, TOY_LOGIT = 320, 4.0  # toy.tiny_model's, and its largest: 4 standard deviations
SUMS = 8  # sums one after the other in a block: 2 norms, q/k/v, scores, values, o, gate/up, down


def unit_roundoff(dtype: torch.dtype = F32) -> float:
    return torch.finfo(dtype).eps / 2


def worst(terms: int, dtype: torch.dtype = F32) -> float:
    """gamma_n: the largest error of a sum of `terms` products, relative to the sum of sizes."""
    n_u = terms * unit_roundoff(dtype)
    assert n_u < 0.1, "no bound for so many terms"
    return n_u / (1 - n_u)


def likely(terms: int, dtype: torch.dtype = F32) -> float:
    """What `worst` is when roundings have either sign."""
    return LAMBDA * sqrt(terms) * unit_roundoff(dtype)


def nats(logits: Tensor) -> float:
    """Error of log probabilities of `logits` [..., vocab] in float32: of the sum, and of its terms.

    An exponential's relative error is the absolute one of its argument: that of the largest minus
    the smallest logit.
    """
    finite = logits[logits.isfinite()]
    return worst(logits.shape[-1]) + worst(4) * float(finite.max() - finite.min())


def coded_product() -> float:
    """Relative error of a product whose activations are rounded to int16.

    A uniform error of half a step CODES has 1 / sqrt(3) of it as standard deviation, PEAK times
    that relative to the activations, and the same relative to a product.
    """
    return LAMBDA * PEAK * CODES / sqrt(3)


def model_rounding(blocks: int = 2, width: int = 96, dtype: torch.dtype = F32) -> float:
    """Relative difference of two computations of a toy model's logits in `dtype`.

    Errors of sums after one another add as squares, SUMS a block and 2 around; `width` is the
    longest sum, 1 where sums are in float32 and only results are rounded to `dtype`.
    """
    return likely((SUMS * blocks + 2) * width, dtype) * sqrt(2)


def coded_rounding(blocks: int = 2) -> float:
    """The same where activations are rounded to int16: 4 products a block, after one another."""
    return coded_product() * sqrt(4 * blocks) + model_rounding(blocks)


def logits_rounding(blocks: int = 2, *, coded: bool = False) -> float:
    """Difference of two computations of a toy model's logits; of a log probability it is twice."""
    return TOY_LOGIT * (coded_rounding(blocks) if coded else model_rounding(blocks))


def kl_rounding(kl: float, blocks: int = 2, *, coded: bool = False) -> float:
    """Difference of two computations of a KL of toy models, in nats.

    KL is half the variance, under the reference, of what the logits differ by: errors of e in both
    models' logits change it by sqrt(2 kl) sqrt(2) e + e^2. And it is itself a sum over the
    vocabulary, of terms that cancel.
    """
    e = logits_rounding(blocks, coded=coded)
    return 2 * sqrt(max(kl, 0.0)) * e + e**2 + likely(TOY_VOCABULARY) + worst(8) * TOY_LOGIT


def assert_figures(actual: dict[str, Any], expected: dict[str, Any], blocks: int = 2) -> None:
    """Every figure of `expected`, of toy models that were computed in another way."""
    e = logits_rounding(blocks)
    bounds = {
        "kl": kl_rounding(expected["kl"], blocks),
        "perplexity_reference": 2 * e * expected["perplexity_reference"],
        "perplexity_quantized": 2 * e * expected["perplexity_quantized"],
        "perplexity_increase": 4 * e * (1 + expected["perplexity_increase"]),
    }
    for name, value in expected.items():
        if isinstance(value, int | float):
            assert abs(actual[name] - value) <= bounds.get(name, 0), (name, actual[name], value)


def assert_within(actual: Tensor, expected: Tensor, bound: Tensor | float) -> None:
    """|actual - expected| <= bound, element by element."""
    assert actual.shape == expected.shape
    difference = (actual.double() - expected.double()).abs()
    excess = difference - torch.as_tensor(bound, dtype=F64)
    assert bool((excess <= 0).all()), (
        f"differs by {float(difference.max()):.3g}; beyond the bound by {float(excess.max()):.3g}"
    )


def assert_product(actual: Tensor, left: Tensor, right: Tensor, roundings: int = 0) -> None:
    """`actual` is left @ right as summed in its own type, however ordered.

    `roundings`: how often, in addition, each term was rounded before or its sum after.
    """
    left, right = left.double(), right.double()
    bound = worst(left.shape[-1] + roundings, actual.dtype) * (left.abs() @ right.abs())
    assert_within(actual, left @ right, bound)
