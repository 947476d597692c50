"""One of the two models, as tasks ask it: opened late, its answers kept, its speed noted."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from salient.awq.calibration import load_tokenizer
from salient.core.errors import ResourceError
from salient.core.system import available_memory, give_back_memory
from salient.runtime.engine import Engine
from salient.runtime.load_engine import EngineOptions, LoadedEngine, find_device
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import ROOM, PairMember

from .answering import ModelAnswer
from .result import Throughput

SLOTS = 16  # sequences at once; twice as many were no faster on two cores
SHARE = 0.5  # of the memory beside the weights, what keys and values may take


@dataclass(frozen=True)
class TimedAnswers(ModelAnswer):
    """A part of a model's answers as the cache holds it, with its time and how the model ran."""

    seconds: float
    runs_as: str


class Examinee:
    """A side of the pair that answers; a prompt and its answer have `context` positions.

    The engine is opened when the store lacks the answer to something: where the reference has
    answered everything already, it needs no memory.
    """

    def __init__(self, side: PairMember, store: ValidationCache, device: str, context: int):
        self.side, self.store, self.context, self.device = side, store, context, device
        self.tokenizer = load_tokenizer(side.source.folder)
        self.throughput = Throughput()
        self._opened: LoadedEngine | None = None

    @property
    def engine(self) -> Engine:
        """Raises ResourceError where the model has no room."""
        if self._opened is None:
            slots = slots_that_fit(self.side, self.device, self.context)
            options = EngineOptions(device=self.device, context=self.context, slots=slots)
            self._opened = self.side.open_engine(options)
        return self._opened.engine

    def part(
        self, name: str, settings: dict[str, Any], make: Callable[[Engine], ModelAnswer]
    ) -> list[Any]:
        """The answers that `make` gives, or gave when the store kept them."""
        before = self.store.taken
        found = self.store.part(
            name,
            {"seal": self.side.seal, **settings},
            lambda: self._timed(make),
            TimedAnswers,
            shared=self.side.role == "reference",
        )
        spent = self.throughput
        spent.parts += 1
        spent.cached += self.store.taken - before
        spent.seconds += found.seconds
        spent.prompt_tokens += found.prompt_tokens
        spent.new_tokens += found.new_tokens
        spent.runs_as = found.runs_as
        return found.answers

    def _timed(self, make: Callable[[Engine], ModelAnswer]) -> "TimedAnswers":
        engine = self.engine
        start = time.perf_counter()
        try:
            answered = make(engine)
        except torch.OutOfMemoryError:
            raise ResourceError(
                f"{self.side.name} ran out of the device's memory while it answered. Measure it on "
                "a larger device, or with --device cpu."
            ) from None
        seconds = time.perf_counter() - start
        return TimedAnswers(**vars(answered), seconds=seconds, runs_as=engine.runner.how)

    def close(self) -> None:
        """Give the model's memory back."""
        if self._opened is not None:
            self._opened = None
            give_back_memory()


def slots_that_fit(side: PairMember, device: str, context: int) -> int:
    """SLOTS, or as many as have room for their keys and values beside the weights; at least one."""
    config = side.skeleton.model.config.get_text_config()
    where = find_device(device)
    on_gpu = where.type == "cuda"
    free = torch.cuda.mem_get_info(where)[0] if on_gpu else available_memory()
    free -= int(side.source.bytes_on_disk * ROOM)
    heads = getattr(config, "num_attention_heads", None) or 1
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    dim = getattr(config, "head_dim", None) or side.skeleton.width // heads
    slot = 4 * len(side.skeleton.blocks) * kv_heads * dim * context  # keys and values, 16 bits
    return max(1, min(SLOTS, int(free * SHARE / slot)))
