"""How much memory a run needs at its peak, told before it starts: a sum of parts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from salient.core.errors import ResourceError
from salient.core.machine import available_memory
from salient.models.skeleton import Skeleton

WORKSPACE = 2**28  # bytes: chunks of the search, file pages, the allocator's slack
FLOAT = 4


@dataclass(frozen=True)
class Estimate:
    """Bytes by part, on the computing device and in main memory (the same on a CPU)."""

    device: dict[str, int]
    main: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of everything, as a CPU run needs them."""
        return sum(self.device.values()) + sum(self.main.values())


def estimate_memory(skeleton: Skeleton, samples: Tensor, heldout: Tensor) -> Estimate:
    """The peak of a run over `samples` and `heldout` (int64 [samples, tokens]).

    Blocks and outer weights are never in memory at the same time; the larger counts.
    """
    size = torch.finfo(skeleton.dtype).bits // 8
    blocks = [_block_parts(skeleton, i, size) for i in range(len(skeleton.blocks))]
    weights, grams, inputs, largest = max(blocks, key=sum)
    width = skeleton.width
    outer = skeleton.outer_bytes()
    logits = 4 * heldout.shape[1] * skeleton.vocabulary * FLOAT
    device = {"largest block, its codes and its search": weights + largest, "Gram matrices": grams}
    head = {"embedding, head and logits": outer + logits}
    parts = device if sum(device.values()) > sum(head.values()) else head
    main = {
        "hidden states between blocks (16 bits)": samples.numel() * width * 2,
        "held-out tokens (three streams and a block's inputs)": heldout.numel()
        * (3 * width + inputs)
        * FLOAT,
        "workspace": WORKSPACE,
    }
    return Estimate(parts, main)


def _block_parts(skeleton: Skeleton, index: int, size: int) -> tuple[int, int, int, int]:
    """Bytes of weights and codes, of Gram matrices, input channels, bytes of a linear's search."""
    linears = skeleton.linears(index).values()
    parameters = sum(linear.weight.numel() for linear in linears)
    distinct = {linear.in_features for linear in linears}
    # Who shares an input is not known before watching: three inputs of the narrowest width and one
    # of each other.
    grams = (sum(width**2 for width in distinct) + 2 * min(distinct) ** 2) * FLOAT
    exact = 0 if size == FLOAT else FLOAT
    weights = parameters * (size + exact + 2)
    largest = max(linear.weight.numel() for linear in linears) * FLOAT * 4
    return weights, grams, sum(distinct) + 2 * min(distinct), largest


def check_memory(estimate: Estimate, device: torch.device) -> None:
    """Raise ResourceError if `estimate` exceeds what is there, saying what to lower."""
    needs = [("main memory", sum(estimate.main.values()), available_memory())]
    if device.type == "cuda":
        needs.append(
            (
                f"memory of {device}",
                sum(estimate.device.values()),
                torch.cuda.mem_get_info(device)[0],
            )
        )
    else:
        needs = [("main memory", estimate.total, available_memory())]
    for what, need, there in needs:
        if need > there:
            raise ResourceError(
                f"The run needs about {need / 2**30:.1f} GiB of {what}, and {there / 2**30:.1f} "
                "GiB are free. Lower --samples or --sequence-length (hidden states), free memory, "
                "or use a machine with more."
            )
