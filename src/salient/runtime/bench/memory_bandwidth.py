"""The bytes of a loaded model, and the memory bandwidth of a device."""

import time

import torch
from torch import nn

from salient.runtime.model_loader import LoadedModel

PROBE_BYTES = 2**29  # larger than any cache
PROBE_RUNS = 5


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all weights; shared tensors count once."""
    tensors = [*module.parameters(), *module.buffers()]
    stores = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(stores.values())


def bytes_a_step(model: LoadedModel) -> int:
    """Bytes of weights that one decoding step reads: all but the embedding, unless tied."""
    embedding, head = model.embedding, model.module.get_output_embeddings()
    tied = head is not None and head.weight.data_ptr() == embedding.weight.data_ptr()
    return weight_bytes(model.module) - (0 if tied else weight_bytes(embedding))


def read_bandwidth(device: torch.device) -> float:
    """Bytes a second at which torch reads memory here: the best of a few sums of 512 MiB.

    On a GPU a copy is timed, and both directions count, as vendors and STREAM do.
    """
    buffer, taken = torch.ones(PROBE_BYTES // 4, device=device), []
    on_gpu = device.type != "cpu"
    target = torch.empty_like(buffer) if on_gpu else buffer
    for _ in range(PROBE_RUNS):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        if on_gpu:
            target.copy_(buffer)
            torch.cuda.synchronize()
        else:
            buffer.sum()
        taken.append(time.perf_counter() - start)
    return (1 + on_gpu) * PROBE_BYTES / min(taken)
