"""Windows of several lengths over one text, both models compared on them token by token.

Every length is cut from the same text, so lengths differ in context only. Attention is causal: a
window of 8192 tokens begins with the windows of 512 and 4096 that start where it does, and these
need no run of their own. Some models rotate positions differently in a longer text; so the first
window of the shortest length is run by itself and compared with that beginning, and where they
differ every window is run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from salient.core.devices import find_device, free_memory
from salient.core.progress import Progress
from salient.models.skeleton import Skeleton
from salient.validate.cache import ValidationCache
from salient.validate.likelihood.streaming import logits_in_slices, run_both
from salient.validate.model_pair import ModelPair

from .positions import TokenFigures, compare_tokens

GROUP_TOKENS = 2**15  # whose hidden states are in memory at once
ALIKE = 0.01  # nats a token; kernels differ by a thousandth of it, other rotary angles by ten times
TRACED = 61  # tokens: a number that is no other size of a model
SCORES = 3  # copies of its scores that plain attention holds

Starts = dict[int, list[int]]  # length of windows -> where they start in the text


@dataclass
class LongWindows:
    """The windows of `starts` over `ids` [tokens], measured.

    begins_alike: whether a longer window begins as a shorter one does
    figures: (start, length) -> the tokens of a window that was run
    """

    pair: ModelPair
    ids: Tensor
    starts: Starts
    cache: ValidationCache
    settings: Mapping[str, object]
    begins_alike: bool = True
    figures: dict[tuple[int, int], TokenFigures] = field(default_factory=dict)

    @property
    def longest(self) -> int:
        return max(self.starts)

    @property
    def notes(self) -> list[str]:
        """What a reader has to know of how they were run."""
        note = "the model computes the beginning of a longer text otherwise than a short text"
        return [] if self.begins_alike else [note]

    @property
    def quarter(self) -> int:
        """A quarter of the longest length."""
        return self.longest // 4

    def measure(self, progress: Progress) -> None:
        """Run what is needed, the longest windows first."""
        wanted = {**self.starts, self.quarter: self.starts.get(self.quarter, []) + self.quarters()}
        lengths = sorted(wanted, reverse=True)
        needed: Starts = {}  # the starts of each length at which no longer window starts
        for length in lengths:
            needed[length] = _once(set(wanted[length]).difference(*needed.values()))
        shortest = lengths[-1]
        needed[shortest] = _once([0, *needed[shortest]])
        work = [(n, starts) for n, starts in needed.items() if starts]
        self._run_all(work, progress)
        if len(lengths) > 1:
            whole = self.figures[0, self.longest]
            self.begins_alike = alike(whole[:, :shortest], self.figures[0, shortest])
        if not self.begins_alike:
            rest = {n: [s for s in _once(wanted[n]) if s not in needed[n]] for n in lengths}
            self._run_all([(n, starts) for n, starts in rest.items() if starts], progress)

    def quarters(self) -> list[int]:
        """Where the last quarter of each of the longest windows starts."""
        return [start + self.longest - self.quarter for start in self.starts[self.longest]]

    def late_and_early(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """KL of the last quarter of each longest window, and of its tokens as own windows."""
        late = [self.at(s, self.longest)[0, -self.quarter :] for s in self.starts[self.longest]]
        return late, [self.at(start, self.quarter)[0] for start in self.quarters()]

    def at(self, start: int, length: int) -> TokenFigures:
        """The tokens of a window, from a run of its own or from a longer window's beginning."""
        if (start, length) not in self.figures and self.begins_alike:
            return self._longest_at(start)[:, :length]
        return self.figures[start, length]

    def apart(self) -> list[np.ndarray]:
        """KL of the longest window at each start: no token is twice at one position."""
        if not self.begins_alike:
            return [self.figures[start, self.longest][0] for start in self.starts[self.longest]]
        return [self._longest_at(start)[0] for start in _once([start for start, _ in self.figures])]

    def _longest_at(self, start: int) -> TokenFigures:
        return self.figures[start, max(n for s, n in self.figures if s == start)]

    def _run_all(self, work: list[tuple[int, list[int]]], progress: Progress) -> None:
        sizes = [length * len(starts) for length, starts in work]
        for number, (length, starts) in enumerate(work):
            label = f"{len(starts)} windows of {length} tokens"
            part = progress.part(sum(sizes[:number]), sizes[number], sum(sizes), label)
            settings = {**self.settings, "length": length, "starts": starts}
            windows = self.cache.part(
                f"context-{length}",
                settings,
                lambda n=length, s=starts, p=part: self._run(n, s, p),
                list[list[list[float]]],
            )
            for start, window in zip(starts, windows, strict=True):
                self.figures[start, length] = np.array(window, np.float64)

    def _run(self, length: int, starts: list[int], progress: Progress) -> list[list[list[float]]]:
        """The figures of each window, of six digits."""
        figures, size = [], group_size(self.pair, length)
        for first in range(0, len(starts), size):
            group = starts[first : first + size]
            ids = torch.stack([self.ids[start : start + length] for start in group])
            part = progress.part(first, len(group), len(starts))
            hidden = run_both(self.pair.skeletons, ids, part)
            for row, start in enumerate(group):
                following = self.ids[start + 1 : start + length + 1]
                slices = logits_in_slices(self.pair, ids[row], [each[row] for each in hidden])
                parts = [compare_tokens(r, q, following[a : a + len(r)]) for a, r, q in slices]
                rows = np.concatenate(parts, axis=1).tolist()
                figures.append([[float(f"{value:.6g}") for value in row] for row in rows])
        return figures


def alike(one: TokenFigures, other: TokenFigures) -> bool:
    """Whether two runs gave the same tokens the same likelihoods."""
    return bool((np.abs(one - other)[2:].mean(1) <= ALIKE).all())


def attention_memory(skeleton: Skeleton, length: int) -> tuple[int, int]:
    """Bytes that a window's attention takes: its masks during the run, and at once in a block.

    Fused attention computes scores piece by piece; plain attention ("eager", what Transformers
    uses for soft-capped scores and sinks) holds them all, for every head.
    """
    _, calls = skeleton.calls(torch.zeros(1, TRACED, dtype=torch.long))
    square = (TRACED, TRACED)
    values = [v for call in calls for v in (*call.args, *call.kwargs.values())]
    masks = {v.data_ptr(): v for v in values if isinstance(v, Tensor) and v.shape[-2:] == square}
    per_cell = sum(m.numel() * m.element_size() for m in masks.values()) / TRACED**2
    config = skeleton.model.config.get_text_config()
    plain = getattr(config, "_attn_implementation", None) == "eager"
    scores = SCORES * 4 * config.num_attention_heads if plain else 4 * bool(masks)
    return int(per_cell * length**2), scores * length**2


def needed_memory(pair: ModelPair, length: int) -> int:
    """Bytes that one window's attention takes, both models' masks and a block's scores."""
    masks, at_once = zip(*(attention_memory(s, length) for s in pair.skeletons), strict=True)
    return sum(masks) + max(at_once)


def group_size(pair: ModelPair, length: int) -> int:
    """Windows that go through the blocks together."""
    masks = sum(attention_memory(skeleton, length)[0] for skeleton in pair.skeletons)
    fitting = free_memory(find_device(pair.device)) // 4 // masks if masks else GROUP_TOKENS
    return max(1, min(GROUP_TOKENS // length, fitting))


def _once(starts: Iterable[int]) -> list[int]:
    return sorted(set(starts))
