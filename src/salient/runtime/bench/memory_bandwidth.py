"""The bytes of a loaded model, and the memory bandwidth of a device."""

import time

import torch
from torch import Tensor, nn

from salient.runtime.model_loader import LoadedModel

PROBE_BYTES = 2**29  # larger than any cache
PROBE_RUNS = 5


def weight_bytes(model: LoadedModel) -> int:
    """Bytes of all weights; shared tensors count once."""
    return _distinct(model.module)


def bytes_a_step(model: LoadedModel) -> int:
    """Bytes of weights that one decoding step reads: all but the embedding, unless tied."""
    embedding, head = model.embedding, model.module.get_output_embeddings()
    whole = _distinct(model.module)
    tied = head is not None and head.weight.data_ptr() == embedding.weight.data_ptr()
    return whole if tied else whole - _distinct(embedding)


def _distinct(module: nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    stores = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(stores.values())


def read_bandwidth(device: torch.device) -> float:
    """Bytes a second at which torch reads memory here: the best of a few sums of 512 MiB.

    On a GPU a copy is timed, and both directions count, as vendors and STREAM do.
    """
    buffer = torch.ones(PROBE_BYTES // 4, device=device)
    if device.type != "cpu":
        return _copied(buffer)
    return PROBE_BYTES / min(_timed(buffer) for _ in range(PROBE_RUNS))


def _timed(buffer: Tensor) -> float:
    start = time.perf_counter()
    buffer.sum()
    return time.perf_counter() - start


def _copied(buffer: Tensor) -> float:
    target, taken = torch.empty_like(buffer), []
    for _ in range(PROBE_RUNS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(buffer)
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return 2 * PROBE_BYTES / min(taken)
