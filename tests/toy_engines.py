"""Tiny checkpoints opened to generate, and how to compare what they say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from salient.kernels.choose import NEVER
from salient.runtime import load as loading
from salient.runtime.answer import Answer
from salient.runtime.open import Opened, Options, load
from salient.runtime.sampling import Sampling

SMALL: dict[str, Any] = {
    "context": 64,
    "slots": 2,
    "device": "cpu",
    "dtype": "float32",
    "kv_dtype": "float32",
}
GREEDY = Sampling(max_new_tokens=16, ignore_eos=True, logprobs=2)
CLOSE = 5e-3  # nats between the two likeliest tokens that rounding may turn round


def opened(folder: Path, **options: Any) -> Opened:
    """The checkpoint in `folder`, small and in float32, unless `options` say other."""
    return load(str(folder), Options(**{**SMALL, **options}))


def prompt(length: int, seed: int = 2) -> list[int]:
    seeded = torch.Generator().manual_seed(seed)
    return torch.randint(3, 250, (length,), generator=seeded).tolist()


def agree(found: Answer, wanted: Answer) -> bool:
    """Whether both have the same tokens, up to a choice between two that are as likely."""
    assert len(wanted.picked) > 1
    for one, other in zip(found.picked, wanted.picked, strict=True):
        if one.token != other.token:
            return other.top[0][1] - other.top[1][1] < CLOSE
    return True


def generated(folder: Path, prompts: Sequence[list[int]], **options: Any) -> list[Answer]:
    return opened(folder, **options).engine.generate(prompts, GREEDY)


def never_dense(monkeypatch: Any) -> None:
    """Have no dense products, whose measured beginning differs from run to run."""
    never = (NEVER, torch.float32)
    monkeypatch.setattr(loading, "measured_crossover", lambda weight, device: never)
