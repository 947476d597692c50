"""Tiny checkpoints opened to generate, and how to compare what they say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from helpers.tolerance import logits_rounding
from salient.kernels.registry import NEVER
from salient.runtime import model_loader as loading
from salient.runtime.load_engine import EngineOptions, LoadedEngine, load
from salient.runtime.sampling_params import SamplingParams
from salient.runtime.sequence import TokenSequence

SMALL: dict[str, Any] = {
    "context_length": 64,
    "slots": 2,
    "device": "cpu",
    "dtype": "float32",
    "kv_dtype": "float32",
}
GREEDY = SamplingParams(max_new_tokens=16, ignore_eos=True, logprobs=2)
# Nats between the two likeliest tokens that rounding may turn round.
CLOSE = 2 * logits_rounding(4, coded=True)


def opened(folder: Path, **options: Any) -> LoadedEngine:
    """The checkpoint in `folder`, small and in float32, unless `options` say other."""
    return load(str(folder), EngineOptions(**{**SMALL, **options}))


def prompt(length: int, seed: int = 2) -> list[int]:
    seeded = torch.Generator().manual_seed(seed)
    return torch.randint(3, 250, (length,), generator=seeded).tolist()


def agree(actual: TokenSequence, wanted: TokenSequence) -> bool:
    """Whether both have the same tokens, up to a choice between two that are as likely."""
    assert len(wanted.picked) > 1
    for one, other in zip(actual.picked, wanted.picked, strict=True):
        if one.token != other.token:
            return other.top[0][1] - other.top[1][1] < CLOSE
    return True


def generated(folder: Path, prompts: Sequence[list[int]], **options: Any) -> list[TokenSequence]:
    return opened(folder, **options).engine.generate(prompts, GREEDY)


def never_dense(monkeypatch: Any) -> None:
    """Have no dense products, whose measured beginning differs from run to run."""
    never = (NEVER, torch.float32)
    monkeypatch.setattr(loading, "measured_crossover", lambda weight, device: never)
