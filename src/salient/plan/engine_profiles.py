"""Memory that each engine takes in addition to weights, and the size of its steps.

Figures are of the engine's defaults (engines.json); every one names its source. Imports no torch.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salient.core.errors import RequestError
from salient.shapes.model_shape import ModelShape

from .gpus import Gpu

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class EngineProfile:
    """An engine's defaults.

    utilization: share of the memory that it takes at most
    block: tokens that its cache allocates at once
    kv_bytes: bytes a number in its cache, by the name of the cache's type; llama.cpp's types have
        blocks of 32 with one 16-bit scale (ggml-common.h)
    context_mib: memory of the driver, the libraries and the process
    graphs: whether it captures CUDA graphs; tensor_parallel: whether it shards a model
    rules: the engine whose kernels and steps it is planned with, "" its own
    """

    name: str
    utilization: float
    block: int
    kv_bytes: dict[str, float]
    context_mib: int
    context_source: str
    graphs: bool = False
    tensor_parallel: bool = False
    rules: str = ""

    @property
    def family(self) -> str:
        """The engine whose rules hold: vLLM for SGLang, which takes its kernels."""
        return self.rules or self.name


_ROWS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("engines.json").read_text(encoding="utf-8")
)
ENGINES = {row["name"]: EngineProfile(**row) for row in _ROWS}
# other names of these engines; for other engines the nearest and why
_NAMES: dict[str, Any] = json.loads(
    Path(__file__).with_name("engine_names.json").read_text(encoding="utf-8")
)
# vLLM's server defaults by memory of the device (vLLM 0.32, engine/arg_utils.py):
# from so many GiB on: tokens in a step, sequences together
_VLLM_STEPS = ((160, 16384, 1024), (70, 8192, 1024), (0, 2048, 256))
_VLLM_CPU_STEP = (2048, 128)
# Bytes of logits and of the sampler's copies of them, for each sequence and word of the vocabulary.
# Fitted to "PyTorch activation peak memory" in published vLLM logs with 256 sequences: 1.19 GiB
# (Llama-3.1-8B, 128256 words), 1.42 (Qwen2.5-7B), 1.39 (Qwen2.5-1.5B), 1.45 (Qwen3-8B): 37 to 40.
SAMPLER_BYTES = 39
# Published vLLM logs say 0.3 to 1.1 GiB for models of 16 to 48 blocks.
GRAPH_BYTES_A_BLOCK = 20 * MIB
NCCL_BYTES = 1 * GIB  # NCCL's and the all-reduce's buffers, with more than one GPU
LLAMA_CPP_BATCH = 512  # tokens in a step, llama.cpp's --ubatch-size


def find_engine(name: str) -> EngineProfile:
    """The engine called `name`, whatever its case.

    Raises RequestError with the known ones, and the nearest where that is known.
    """
    known, plain = ", ".join(ENGINES), name.strip().lower()
    plain = _NAMES["also"].get(plain, plain)
    if plain in ENGINES:
        return ENGINES[plain]
    nearest = _NAMES["nearest"].get(re.sub(r"[-_ ]|(?<=\D)server$", "", plain))
    if nearest:
        engine, why = nearest
        raise RequestError(
            f"Unknown engine {name!r}. The nearest is --engine {engine}: {why}. "
            f"Known engines: {known}."
        )
    raise RequestError(f"Unknown engine {name!r}. Known engines: {known}.")


def kv_bytes(engine: EngineProfile, kv_dtype: str) -> float:
    """Bytes of a cached number. Raises RequestError for a type that the engine does not have."""
    if kv_dtype not in engine.kv_bytes:
        known = ", ".join(engine.kv_bytes)
        raise RequestError(
            f"{engine.name} has no KV cache in {kv_dtype!r}. --kv-dtype may be: {known}."
        )
    return engine.kv_bytes[kv_dtype]


def step_sizes(engine: EngineProfile, gpu: Gpu, prompt: int, sequences: int) -> tuple[int, int]:
    """(tokens, sequences) of the largest step, by the engine's defaults."""
    if engine.family == "vllm":
        if gpu.vendor == "cpu":
            return _VLLM_CPU_STEP
        a100 = "a100" in gpu.name.lower()
        rows = (row[1:] for row in _VLLM_STEPS if gpu.memory >= row[0] and not (row[0] and a100))
        return next(rows)
    if engine.name == "llama.cpp":
        return min(prompt, LLAMA_CPP_BATCH), sequences
    return prompt * (sequences if engine.name == "transformers" else 1), sequences


def step_bytes(shape: ModelShape, tokens: int, tp: int) -> int:
    """Bytes of the widest moment of a block, for `tokens` 16-bit rows on one of `tp` GPUs.

    The residual, the normed input and the output, and the wider of attention's inputs and outputs
    and the merged gate and up with their product.
    """
    widest = 0
    for block in dict.fromkeys(shape.blocks):
        sums = dict.fromkeys(("attention", "mixer", "mlp", "experts", "shared experts"), 0)
        for linear in block.linears:
            if linear.part in sums:
                features = linear.out if linear.split != "in" else linear.width
                sums[linear.part] += features * linear.active
        widest = max(widest, *sums.values())
    return tokens * (3 * shape.hidden + widest // tp) * 2


def logits_bytes(shape: ModelShape, engine: EngineProfile, tokens: int, sequences: int) -> int:
    """Bytes of logits: of every sequence in vLLM's profile, of every token in llama.cpp's batch."""
    if engine.family == "vllm":
        return sequences * shape.vocab * SAMPLER_BYTES
    if engine.name == "llama.cpp":
        return tokens * shape.vocab * 4
    return sequences * shape.vocab * 8  # 16-bit, then float32 and a copy to choose from
