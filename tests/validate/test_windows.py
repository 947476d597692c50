"""Laws of windows: every token counts once, and the textbook's sum comes out."""

import math

import pytest
import torch

from helpers.tolerance import worst
from salient.core.errors import CalibrationError
from salient.core.metrics import LogitsComparison, compare_logits
from salient.validate.likelihood.protocols import EvaluationProtocol

VOCAB = 11
ROUNDING = 2 * (worst(VOCAB) + worst(4) * 8)  # of log probabilities of standard normal logits


def bigram(ids: torch.Tensor) -> torch.Tensor:
    """Logits of a model that looks at the last two tokens: [tokens, vocab]."""
    before = torch.cat([ids.new_zeros(1), ids[:-1]])
    table = torch.randn(VOCAB, VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
    return table[before, ids]


def measured(ids: torch.Tensor, protocol: EvaluationProtocol) -> LogitsComparison:
    sums = LogitsComparison()
    for number, window in enumerate(protocol.windows(ids)):
        first = protocol.first_counted(number)
        logits = bigram(window)[first:]
        sums.add(compare_logits(logits, logits, window[first:]))
    return sums


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 4), (8, 1), (16, 3)])
def test_every_token_counts_once(window, stride):
    protocol = EvaluationProtocol(window, stride)
    ids = torch.arange(67) % VOCAB
    counted: list[int] = []
    for number, window_ids in enumerate(protocol.windows(torch.arange(67))):
        first = protocol.first_counted(number)
        counted += window_ids[first + 1 :].tolist()
    assert len(counted) == len(set(counted)) == measured(ids, protocol).predicted
    if stride < window:
        assert counted == list(range(1, counted[-1] + 1))


def test_a_sliding_perplexity_has_the_textbook_value():
    """By hand: exp of the mean of -log p(token | what its window has before it)."""
    ids = torch.randint(VOCAB, (40,), generator=torch.Generator().manual_seed(1))
    window, stride = 10, 5
    total, count = 0.0, 0
    for start in range(0, len(ids) - window + 1, stride):
        piece = ids[start : start + window]
        chances = bigram(piece).softmax(-1)
        new = 1 if start == 0 else window - stride
        for at in range(new, window):
            total -= math.log(float(chances[at - 1, piece[at]]))
            count += 1
    sums = measured(ids, EvaluationProtocol(window, stride))
    assert sums.predicted == count
    assert sums.perplexity_reference == pytest.approx(math.exp(total / count), rel=ROUNDING)


def test_adjacent_windows_are_the_published_protocol():
    """As GPTQ has it: pieces of the length, each on its own, its first token not predicted."""
    ids = torch.randint(VOCAB, (48,), generator=torch.Generator().manual_seed(2))
    pieces = ids.reshape(6, 8)
    losses = [
        torch.nn.functional.cross_entropy(bigram(p)[:-1], p[1:], reduction="sum") for p in pieces
    ]
    expected = math.exp(float(torch.stack(losses).sum()) / (6 * 7))
    sums = measured(ids, EvaluationProtocol(8, 8))
    assert sums.perplexity_reference == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize("stride", [0, -1, 9])
def test_a_stride_that_does_not_fit_is_refused(stride):
    with pytest.raises(CalibrationError, match=rf"--stride {stride} does not fit windows of 8"):
        EvaluationProtocol(8, stride)
