"""Panel 5: kernels, fusion and memory of the running checkpoint."""

from typing import Any

import torch

from salient.core.system import resident_memory
from salient.runtime.bench.memory_bandwidth import weight_bytes
from salient.runtime.inspect_runtime import runtime_to_dict
from salient.runtime.load_engine import LoadedEngine


def running_data(
    loaded: LoadedEngine, reference: LoadedEngine | None, measured_bytes: int
) -> dict[str, Any]:
    """Kernels, fusion, memory by part. measured_bytes: of the calibration pass"""
    data = runtime_to_dict(loaded)
    del data["checkpoint"]  # a path of this machine
    parts = [("weights", weight_bytes(loaded.model)), ("keys and values", _kv_bytes(loaded))]
    if reference is not None:
        parts.append(("the reference's weights", weight_bytes(reference.model)))
        parts.append(("the reference's keys and values", _kv_bytes(reference)))
    parts.append(("this page's measurements", measured_bytes))
    device = loaded.model.device
    cuda = device.type == "cuda"
    total = torch.cuda.memory_allocated(device) if cuda else resident_memory()
    rest = max(total - sum(size for _, size in parts), 0)
    parts.append(("the rest: activations, Python, libraries", rest))
    full = data["kv_bytes_a_token"]
    return {
        **data,
        "parts": [{"name": name, "bytes": size} for name, size in parts],
        "total": total,
        "kv_bytes_full": full and full * data["context"] * data["slots"],
    }


def _kv_bytes(loaded: LoadedEngine) -> int:
    """Bytes of the keys and values in the slots; 0 if unknown."""
    each = runtime_to_dict(loaded)["kv_bytes_a_token"] or 0
    return each * loaded.engine.cached_tokens
