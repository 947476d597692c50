"""Runners compute logits: fused blocks over one cache, or Transformers' own forward."""

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from salient.core.errors import ModelError
from salient.core.system import cache_folder
from salient.runtime.fusion.native_blocks import NativeBlocks
from salient.runtime.fusion.torch_blocks import run_block
from salient.runtime.fusion.trace import TOLERANCES, max_row_error
from salient.runtime.fusion.verify import FusedModel

from .kv_cache import Batch, KeyValueCache
from .model_loader import LoadedModel
from .sampler import NO_NUMBERS

LENGTHS = 256  # a compiled step is made for multiples of so many positions, doubling
PROOF_IDS, PROOF_CUT = (3, 17, 5, 40, 8, 29, 11, 23), 6  # a prompt, and where it is cut in two
LOGIT_ROWS = 64  # rows of logits in memory at once: a row has the whole vocabulary

# Log-probability in nats, and whether no token is likelier.
Logprob = tuple[float, bool]


@dataclass(frozen=True)
class TokenSpan:
    """Tokens that continue one sequence.

    ids: go to `slot` from position `start` on
    targets: (i, token): compute the log-probability of `token` after ids[i]; in order of i
    """

    slot: int
    start: int
    ids: list[int]
    targets: list[tuple[int, int]]


class Runner(ABC):
    """Computes the next logits of sequences, each in a slot.

    slots: number of sequences   capacity: positions of each   how: description
    vocabulary: number of token ids
    reuses_prefixes: whether a sequence can copy the keys and values of a shared prefix
    chunked_prefill: whether a prompt can be computed in chunks
    """

    slots: int
    capacity: int
    vocabulary: int
    how: str
    reuses_prefixes = False
    chunked_prefill = True

    @abstractmethod
    def logits(self, slot: int, ids: list[int], start: int, last: int) -> Tensor:
        """Logits float32 [last, vocab] after each of the last of `ids`, which go to `slot` from
        position `start` on."""

    @abstractmethod
    def decode(self, slots: list[int], tokens: list[int], positions: list[int]) -> Tensor:
        """Logits float32 [sequences, vocab] after one more token each."""

    def prefill(self, slot: int, ids: list[int], start: int) -> Tensor:
        """Logits float32 [vocab] after `ids`, as in `logits`."""
        return self.logits(slot, ids, start, 1)[0]

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` positions of `source` to `target`."""
        raise NotImplementedError

    def logprobs(self, spans: Sequence[TokenSpan]) -> list[list[Logprob]]:
        """The log-probabilities of each span's targets; every span in a slot of its own.

        Raises ModelError for logits that are not finite.
        """
        raise NotImplementedError


class FusedRunner(Runner):
    """Fused blocks: several sequences in one step."""

    reuses_prefixes = True

    def __init__(
        self,
        model: LoadedModel,
        fused: FusedModel,
        slots: int,
        capacity: int,
        kv_dtype: torch.dtype,
        *,
        compiled: bool,
    ):
        self.model, self.fused, self.slots, self.capacity = model, fused, slots, capacity
        self.vocabulary = model.embedding.weight.shape[0]
        shapes = [(p.attention.kv_heads, p.attention.head_dim) for p in fused.parts]
        # One position more than is used: rows of a compiled step that stand for nothing go there.
        self.cache = KeyValueCache(shapes, slots, capacity + 1, kv_dtype, model.device)
        native = fused.native is None and not compiled
        self._native = NativeBlocks(fused.parts, self.cache) if native else None
        self._compiled = compiled_step(self._step) if compiled else None
        self._ran_compiled = False
        how = "C++" if native else "compiled by torch.compile" if compiled else "PyTorch"
        self.how = f"fused blocks, {how}"

    def logits(self, slot: int, ids: list[int], start: int, last: int) -> Tensor:
        tokens = torch.tensor(ids, device=self.model.device)
        batch = Batch.prefill(slot, start, len(ids), self.model.device)
        with torch.inference_mode():
            hidden = self._blocks(self.fused.head.embed(tokens), batch)
            return self.fused.head.logits(hidden[-last:])

    def decode(self, slots: list[int], tokens: list[int], positions: list[int]) -> Tensor:
        if self._compiled is not None:
            return self._compiled_decode(slots, tokens, positions)
        batch = Batch.decode(slots, positions, self.model.device)
        with torch.inference_mode():
            embedded = self.fused.head.embed(torch.tensor(tokens, device=self.model.device))
            return self.fused.head.logits(self._blocks(embedded, batch))

    def copy(self, source: int, target: int, count: int) -> None:
        with torch.inference_mode():
            self.cache.copy(source, target, count)

    def logprobs(self, spans: Sequence[TokenSpan]) -> list[list[Logprob]]:
        device, head = self.model.device, self.fused.head
        tokens = torch.tensor([token for span in spans for token in span.ids], device=device)
        begins = [0, *accumulate(len(span.ids) for span in spans)]
        targets = [(b + i, t) for b, s in zip(begins, spans, strict=False) for i, t in s.targets]
        batch = Batch.together([Batch.prefill(s.slot, s.start, len(s.ids), device) for s in spans])
        with torch.inference_mode():
            hidden = self._blocks(head.embed(tokens), batch)
            logprobs = iter(logprobs_of(lambda rows: head.logits(hidden[rows]), targets, device))
        return [[next(logprobs) for _ in span.targets] for span in spans]

    def _blocks(self, hidden: Tensor, batch: Batch) -> Tensor:
        if batch.length > self.capacity + 1:  # C++ would write past the end
            raise IndexError(f"position {batch.length - 1} of {self.capacity}")
        # CPUs with matrix units multiply many rows faster dequantized: the loader measured it.
        if self._native is not None and len(hidden) < self.model.crossover[0]:
            return self._native(hidden, batch)
        for index, parts in enumerate(self.fused.parts):
            hidden = run_block(parts, hidden, batch, self.cache, index)
        return hidden

    def _step(self, tokens: Tensor, positions: Tensor, length: int) -> Tensor:
        """The compiled function: one token of each of the first slots, a row each."""
        slots = torch.arange(len(tokens), device=tokens.device)
        hidden = self.fused.head.embed(tokens)
        batch = Batch(slots, positions, length)
        return self.fused.head.logits(self._blocks(hidden, batch))

    def _compiled_decode(self, slots: list[int], tokens: list[int], positions: list[int]) -> Tensor:
        """One step of fixed shape: all slots up to a power of two, all positions up to another."""
        assert self._compiled is not None
        rows = min(_power(max(slots) + 1, 1), self.slots)
        length = min(_power(max(positions) + 1, LENGTHS), self.capacity + 1)
        where = torch.full((rows,), self.capacity)
        what = torch.zeros(rows, dtype=torch.long)
        for slot, token, position in zip(slots, tokens, positions, strict=True):
            what[slot], where[slot] = token, position
        device = self.model.device
        try:
            with torch.no_grad():
                return self._compiled(what.to(device), where.to(device), length)[slots]
        except RuntimeError as error:  # torch.compile's own are; nothing has run yet
            if self._ran_compiled:
                raise
            self._compiled = None
            self.how = f"fused blocks, PyTorch (torch.compile fails: {str(error).splitlines()[0]})"
            return self.decode(slots, tokens, positions)
        finally:
            self._ran_compiled = True


class RoundedCache(DynamicCache):
    """Transformers' cache with keys and values rounded to `dtype`, as in the fused blocks."""

    def __init__(self, dtype: torch.dtype, config: Any):
        super().__init__(config=config)
        self.kv_dtype = dtype

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        key, value = (t.to(self.kv_dtype).to(t.dtype) for t in (key_states, value_states))
        return super().update(key, value, *args, **kwargs)


class ModelRunner(Runner):
    """Transformers' own forward, a cache a sequence: any architecture, one sequence at a time.

    The model creates its own kind of cache.
    """

    def __init__(self, model: LoadedModel, slots: int, capacity: int, kv_dtype: torch.dtype):
        self.model, self.slots, self.capacity, self.kv_dtype = model, slots, capacity, kv_dtype
        self._plain_cache = False  # the model makes Transformers' usual one
        self.vocabulary = model.embedding.weight.shape[0]
        takes = inspect.signature(model.module.forward).parameters
        self._cache = "cache_params" if "cache_params" in takes else "past_key_values"
        # Some caches do not know their length. With images, positions are not a simple count.
        text_only = model.config is model.module.config
        self._counts = "position_ids" in takes and text_only
        self._limits_logits = "logits_to_keep" in takes
        self._caches: dict[int, Any] = {}
        self.chunked_prefill = self._adds_up()
        whole = "" if self.chunked_prefill else ", prompts in one piece"
        self.how = f"Transformers' forward, one sequence at a time{whole}"

    def decode(self, slots: list[int], tokens: list[int], positions: list[int]) -> Tensor:
        rows = zip(slots, tokens, positions, strict=True)
        return torch.cat([self.logits(slot, [token], at, 1) for slot, token, at in rows])

    def logprobs(self, spans: Sequence[TokenSpan]) -> list[list[Logprob]]:
        return [self._span_logprobs(span) for span in spans]

    def _span_logprobs(self, span: TokenSpan) -> list[Logprob]:
        logprobs, size = [], LOGIT_ROWS if self.chunked_prefill else len(span.ids)
        for begin in range(0, len(span.ids), size):
            piece = span.ids[begin : begin + size]
            targets = [(i - begin, t) for i, t in span.targets if begin <= i < begin + size]
            cut = targets[0][0] if targets else len(piece) - 1
            logits = self.logits(span.slot, piece, span.start + begin, len(piece) - cut)
            targets = [(i - cut, t) for i, t in targets]
            logprobs += logprobs_of(partial(getitem, logits), targets, self.model.device)
        return logprobs

    def logits(self, slot: int, ids: list[int], start: int, last: int) -> Tensor:
        if start == 0:
            self._caches.pop(slot, None)
            if self._plain_cache:
                self._caches[slot] = RoundedCache(self.kv_dtype, self.model.config)
        inputs: dict[str, Any] = {"logits_to_keep": last} if self._limits_logits else {}
        if slot in self._caches:
            inputs[self._cache] = self._caches[slot]
        if self._counts:
            positions = torch.arange(start, start + len(ids), device=self.model.device)
            inputs["position_ids"] = positions[None]
        tokens = torch.tensor([ids], device=self.model.device)
        with torch.no_grad():
            out = self.model.module(input_ids=tokens, use_cache=True, **inputs)
        self._caches[slot] = getattr(out, self._cache)
        return out.logits[0, -last:].float()

    def _adds_up(self) -> bool:
        """Whether chunked prefill gives the same logits: not every recurrent state carries over."""
        ids = [number % self.vocabulary for number in PROOF_IDS]
        with torch.no_grad():
            whole = self.prefill(0, ids, 0)
            self.prefill(0, ids[:PROOF_CUT], 0)
            pieces = self.prefill(0, ids[PROOF_CUT:], PROOF_CUT)
        self._plain_cache = type(self._caches[0]) is DynamicCache
        self._caches.clear()
        return max_row_error(pieces[None], whole[None]) <= TOLERANCES[self.model.dtype]


def logprobs_of(
    logits_of: Callable[[Tensor], Tensor], targets: Sequence[tuple[int, int]], device: torch.device
) -> list[Logprob]:
    """The log-probability of each (row, token), from float32 logits.

    logits_of: logits float32 [rows, vocab] of some rows int64 [rows]; called for a few at a time

    Raises ModelError for logits that are not finite.
    """
    if not targets:
        return []
    pairs = torch.tensor(targets, device=device)
    rows, places = pairs[:, 0].unique(return_inverse=True)
    results = torch.empty(2, len(targets), device=device)
    for start in range(0, len(rows), LOGIT_ROWS):
        logits = logits_of(rows[start : start + LOGIT_ROWS])
        here = (places >= start) & (places < start + LOGIT_ROWS)
        own = places[here] - start
        chosen, totals = logits[own, pairs[here, 1]], logits.logsumexp(-1)
        if not totals.isfinite().all():
            raise ModelError(NO_NUMBERS)
        results[0, here] = chosen - totals[own]
        results[1, here] = (chosen == logits.amax(-1)[own]).float()
    logprobs, likeliest = results.tolist()
    return [(value, flag == 1.0) for value, flag in zip(logprobs, likeliest, strict=True)]


def _power(least: int, start: int) -> int:
    """The first of start, 2 start, 4 start, ... that is at least `least`."""
    while start < least:
        start *= 2
    return start


def compiled_step(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`step` under torch.compile, with CUDA graphs on a GPU; its cache on disk."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    mode = "reduce-overhead" if torch.cuda.is_available() else "default"
    return torch.compile(step, dynamic=False, mode=mode)
