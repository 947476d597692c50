"""Panel 5: how the checkpoint runs here, and what takes the memory."""

from typing import Any

import torch

from salient.core.system import resident_memory
from salient.runtime.bench.memory_bandwidth import weight_bytes
from salient.runtime.inspect_runtime import described
from salient.runtime.load_engine import LoadedEngine


def running_data(
    opened: LoadedEngine, reference: LoadedEngine | None, kept_bytes: int
) -> dict[str, Any]:
    """Kernels, fusion, memory by part. kept_bytes: what the explorer keeps itself"""
    data = described(opened)
    del data["checkpoint"]  # a path of this machine
    device = opened.model.device
    parts = [("weights", weight_bytes(opened.model)), ("keys and values", _kept(opened))]
    if reference is not None:
        parts.append(("the reference's weights", weight_bytes(reference.model)))
        parts.append(("the reference's keys and values", _kept(reference)))
    parts.append(("what this page measured", kept_bytes))
    cuda = device.type == "cuda"
    total = torch.cuda.memory_allocated(device) if cuda else resident_memory()
    rest = max(total - sum(size for _, size in parts), 0)
    full = data["kv_bytes_a_token"]
    return {
        **data,
        "parts": [{"name": name, "bytes": size} for name, size in parts]
        + [{"name": "the rest: activations, Python, libraries", "bytes": rest}],
        "total": total,
        "kv_bytes_full": full and full * data["context"] * data["slots"],
    }


def _kept(opened: LoadedEngine) -> int:
    """Bytes of the keys and values that the slots hold; 0 where that is not known."""
    each = described(opened)["kv_bytes_a_token"] or 0
    return each * opened.engine.held_tokens
