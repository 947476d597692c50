"""Sample the next token of one sequence from the model's logits.

In the order of vLLM, so that a request means the same in both:

    1. repetition penalty     over prompt and generated tokens, as Transformers has it
    2. frequency penalty      times how often a token was generated
    3. presence penalty       once for each token that was generated
    4. a grammar              forbids tokens, where the answer must be JSON
    5. greedy: the largest logit, the first of equals; or, with a temperature:
    6. temperature            divides the logits
    7. min-p                  keeps tokens at least `min_p` times as likely as the likeliest
    8. top-k                  keeps the k likeliest of them, exactly k where some are equally likely
    9. top-p                  keeps the fewest likeliest that reach `top_p` of what is left
    10. one draw              from a generator of this sequence alone

The draw is one uniform number from a generator on the CPU, so the same seed gives the same tokens
on any device and in any batch. Reported log probabilities are of the model's own
distribution, before step 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from salient.core.errors import ModelError

from .grammar import Constraint
from .sampling_params import SampledToken, SamplingParams

FIRST_LOOK = 64  # tokens that top-p looks at before it looks at more
NEXT_LOOK = 32  # times as many
NO_NUMBERS = (
    "The model gave logits that are not finite numbers. If it runs in float16, run it in "
    "bfloat16 or float32; if it does not, a weight file is damaged: fetch it again."
)


class Sampler:
    """Samples the tokens of one sequence; `constraint` forbids some.

    Call `pick` once a token: each call draws and updates the counts for penalties.
    """

    def __init__(
        self,
        sampling: SamplingParams,
        prompt_ids: Sequence[int] = (),
        constraint: Constraint | None = None,
    ):
        sampling.check()
        self.sampling, self.constraint = sampling, constraint
        self._prompt = prompt_ids
        self._present: Tensor | None = None  # bool [vocab]: in the prompt or generated
        self._counts: Tensor | None = None  # float32 [vocab]: times generated
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    @property
    def plain(self) -> bool:
        return self.sampling.plain and self.constraint is None

    def pick(self, logits: Tensor) -> SampledToken:
        """The next token, from logits [vocab], which are left as they are.

        Raises ModelError for logits that are not finite.
        """
        logits = logits.float()
        scores = self._penalize(logits) if self.sampling.penalizes else logits
        if self.constraint is not None:
            scores = self.constraint.allowed(scores)
        token = greedy_batch(scores[None])[0] if self.sampling.greedy else self._draw(scores)
        if token is None:
            raise ModelError(NO_NUMBERS)
        if self._present is not None and self._counts is not None:
            self._present[token] = True
            self._counts[token] += 1
        if self.constraint is not None:
            self.constraint.accept(token)
        if self.sampling.logprobs is None:
            return SampledToken(token)
        values, ids = logits.topk(min(self.sampling.logprobs, len(logits)))
        chosen = torch.cat([logits[token][None], values]) - logits.logsumexp(0)
        logprob, *others = chosen.tolist()
        return SampledToken(token, logprob, tuple(zip(ids.tolist(), others, strict=True)))

    def _penalize(self, logits: Tensor) -> Tensor:
        """Steps 1 to 3, on a copy."""
        if self._present is None or self._counts is None:
            self._present = torch.zeros_like(logits, dtype=torch.bool)
            self._counts = torch.zeros_like(logits)
            # A prompt may hold ids that the model can read and not write
            known = [i for i in set(self._prompt) if 0 <= i < len(logits)]
            self._present[torch.tensor(known, dtype=torch.long, device=logits.device)] = True
        chosen = self.sampling
        by = chosen.repetition_penalty
        weakened = torch.where(logits > 0, logits / by, logits * by)
        scores = torch.where(self._present, weakened, logits)
        scores -= chosen.frequency_penalty * self._counts
        scores -= chosen.presence_penalty * (self._counts > 0)
        return scores

    def _draw(self, scores: Tensor) -> int:
        """Steps 6 to 10, of scores float32 [vocab]."""
        chosen, ids = self.sampling, None
        if chosen.top_k:
            # What is left is small: the rest goes faster on the CPU
            scores, ids = (t.cpu() for t in scores.topk(min(chosen.top_k, len(scores))))
        # The likeliest token weighs 1. Min-p asks about each token alone, so that it may as well
        # come after top-k.
        weights = ((scores - scores.max()) / chosen.temperature).exp()
        if chosen.min_p > 0:
            weights = weights * (weights >= chosen.min_p)
        if chosen.top_p < 1:
            weights, places = nucleus(weights, chosen.top_p)
            ids = places if ids is None else ids[places]
        # float64: in float32 the sum would stand still at tokens below one in ten million
        reached = weights.cumsum(0, dtype=torch.float64)
        total = reached[-1].item()
        if not math.isfinite(total):
            raise ModelError(NO_NUMBERS)
        draw = torch.rand((), generator=self._generator, dtype=torch.float64).item() * total
        # The first whose reach lies beyond the draw weighs something; rounding must not hide it
        place = torch.searchsorted(reached, min(draw, math.nextafter(total, 0)), right=True)
        return int(place if ids is None else ids[place])


def nucleus(weights: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The fewest, largest of `weights` float32 [tokens] that reach `top_p` of their sum.

    Returns them, largest first, and their places. Sorts no more of the vocabulary than it needs.
    """
    wanted = weights.sum(dtype=torch.float64) * top_p
    look = FIRST_LOOK
    while True:
        largest, places = weights.topk(min(look, len(weights)))
        reached = largest.cumsum(0, dtype=torch.float64)
        if len(reached) == len(weights) or reached[-1] >= wanted:
            count = int((reached < wanted).sum()) + 1
            return largest[:count], places[:count]
        look *= NEXT_LOOK


def greedy_batch(logits: Tensor) -> list[int | None]:
    """The largest of each row of logits [rows, vocab], the first of equals: one look at the device.

    None for a row that is not finite.
    """
    if logits.device.type == "cpu":  # where torch takes ten times as long as numpy
        rows = logits.float().numpy()
        tokens = rows.argmax(-1)
        values = rows[range(len(rows)), tokens].tolist()
    else:
        largest, tokens = logits.max(dim=-1)
        values = largest.tolist()
    both = zip(tokens.tolist(), values, strict=True)
    return [token if math.isfinite(value) else None for token, value in both]
