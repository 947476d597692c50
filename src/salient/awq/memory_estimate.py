"""Peak memory of a run, estimated before it starts as a sum of parts.

Two moments compete: searching the largest block, and turning the held-out tokens' last hidden
states into logits. Blocks and outer weights are never in memory together.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from salient.core.devices import free_memory
from salient.core.errors import ResourceError
from salient.core.system import available_memory, resident_memory
from salient.models.skeleton import Skeleton
from salient.models.tracing import numbers

from .block_statistics import GRAM_BYTES
from .effort import EFFORTS, Effort
from .error_feedback import BAND, ROWS
from .fisher import linear_bytes
from .run_state import BATCH_TOKENS, HIDDEN_DTYPE

FLOAT = 4  # bytes
CODES = 2  # bytes a weight: its code as written and by plain rounding
ACTIVATIONS_BACK = 6  # times a block's inputs: what its backward pass reads, and gradients
POLISH = 10  # times a linear's weight: error, gradient, codes, steps and what is tried
LEARNING = 24  # bytes a weight: its value, gradient, shift, residual, codes; of the best iterate
SLACK = 2**27  # bytes: chunks of the search, file pages, memory that the allocator retains


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part, on the computing device and in main memory (the same on a CPU).

    resident: part of main memory that the process used at the time of the estimate
    """

    device: dict[str, int]
    main: dict[str, int]
    resident: int

    @property
    def total(self) -> int:
        """Bytes of everything, as a CPU run needs them."""
        return sum(self.device.values()) + sum(self.main.values())


def estimate_memory(
    skeleton: Skeleton, samples: Tensor, heldout: Tensor, effort: Effort = EFFORTS["fast"]
) -> MemoryEstimate:
    """The peak of a run over `samples` and `heldout` (int64 [samples, tokens])."""
    blocks = [block_parts(skeleton, index, effort) for index in range(len(skeleton.blocks))]
    block = max(blocks, key=lambda parts: sum(parts.values()))
    logits = 4 * heldout.shape[1] * skeleton.vocabulary * FLOAT  # three models', a softmax
    head = {
        "embedding and head, read and in use": 2 * skeleton.outer_bytes(),
        "logits of a held-out sample": logits,
    }
    inputs = max(_inputs(skeleton, index) for index in range(len(skeleton.blocks)))
    again = max(_grams(skeleton, index, effort) for index in range(len(skeleton.blocks)))
    gradients = effort.draws(samples.numel()) * (2 if again > GRAM_BYTES else 1)
    streams = max(2 if effort.reconstruction_steps else 1, gradients)
    resident = resident_memory()
    main = {
        "Python and its libraries, as now": resident,
        "hidden states between blocks (16 bits)": samples.numel() * skeleton.width * 2 * streams,
        "held-out tokens (three streams, a block's inputs)": heldout.numel()
        * (4 * skeleton.width + inputs * (2 if effort.gradients else 1))
        * FLOAT,
        "workspace": SLACK,
    }
    return MemoryEstimate(max(block, head, key=lambda parts: sum(parts.values())), main, resident)


def stored_bytes(skeleton: Skeleton, samples: Tensor, heldout: Tensor, effort: Effort) -> int:
    """What a run stores on disk while it lasts, besides the checkpoint: the blocks' inputs."""
    if not effort.gradients:
        return 0
    size = samples.numel() * HIDDEN_DTYPE.itemsize + heldout.numel() * FLOAT
    return size * skeleton.width * len(skeleton.blocks)


def block_parts(skeleton: Skeleton, index: int, effort: Effort = EFFORTS["fast"]) -> dict[str, int]:
    """What block `index` needs while it is worked on."""
    linears = skeleton.linears(index)
    size = torch.finfo(skeleton.dtype).bits // 8
    parameters = sum(linear.weight.numel() for linear in linears.values())
    # inputs, and as much again; with gradients all that the backward pass reads
    copies = ACTIVATIONS_BACK if effort.gradients else 2
    activations = BATCH_TOKENS * _inputs(skeleton, index) * FLOAT * copies
    learning = LEARNING * parameters if effort.reconstruction_steps else 0
    grams = _grams(skeleton, index, effort)
    return {
        "largest block and its codes": parameters * (size + CODES),
        "Gram matrices": min(
            grams, max(GRAM_BYTES, _grams(skeleton, index, effort, all_tokens=True))
        ),
        "search, or a batch's activations": max(
            _search(linears, size, effort), activations, learning - grams
        ),
    }


def _search(linears: dict[str, nn.Linear], size: int, effort: Effort) -> int:
    """Bytes of settling one shared input: its weights scaled, and with feedback; a linear's error.

    Who shares an input is not known before watching: all linears of one width are taken to, of an
    expert each.
    """
    shared: Counter[tuple[object, ...]] = Counter()
    for name, linear in linears.items():
        shared[linear.in_features, *numbers(name)] += linear.weight.numel()
    copies = 2 if size == FLOAT else 3  # the source's own float32 values, when computing in 16 bits
    if effort.gradients:
        polish = max(POLISH * m.weight.numel() + m.in_features**2 for m in linears.values())
        return (copies * max(shared.values()) + polish) * FLOAT
    largest = max(linear.weight.numel() for linear in linears.values())
    feedback = max((ROWS + 3 * BAND) * min(linear.in_features, BAND) for linear in linears.values())
    return (copies * max(shared.values()) + max(largest * 2, feedback)) * FLOAT


def _grams(skeleton: Skeleton, index: int, effort: Effort, *, all_tokens: bool = False) -> int:
    """Bytes of a block's Gram matrices; or only of those of inputs that all tokens reach."""
    if effort.gradients:
        linears = skeleton.linears(index).items()
        return sum(linear_bytes(m) for name, m in linears if not (all_tokens and numbers(name)))
    whole, experts = _widths(skeleton, index)
    widths = whole if all_tokens else [*whole, *experts]
    return sum(width**2 for width in widths) * FLOAT


def _inputs(skeleton: Skeleton, index: int) -> int:
    """Channels of a block's inputs for one token, which some experts see."""
    whole, experts = _widths(skeleton, index)
    active, count = experts_of(skeleton, index)
    return sum(whole) + sum(experts) * active // count


def experts_of(skeleton: Skeleton, index: int) -> tuple[int, int]:
    """The experts of block `index` that a token passes, and all of them; 1 and 1 without any."""
    names = skeleton.linears(index)
    count = max(len({tuple(numbers(name)) for name in names} - {()}), 1)
    return min(skeleton.experts_per_token or count, count), count


def _widths(skeleton: Skeleton, index: int) -> tuple[list[int], list[int]]:
    """Widths of the shared inputs of a block, those that all tokens reach and those of experts.

    For the former: three of the narrowest width and each other once.
    """
    linears = skeleton.linears(index)
    whole = {linear.in_features for name, linear in linears.items() if not numbers(name)}
    experts = {(m.in_features, *numbers(name)) for name, m in linears.items() if numbers(name)}
    narrow = [min(whole)] * 2 if whole else []
    return [*whole, *narrow], [int(width) for width, *_ in experts]


def check_memory(estimate: MemoryEstimate, device: torch.device) -> None:
    """Raise ResourceError if `estimate` exceeds the free memory, naming what to lower."""
    needs = {"main memory": (estimate.total, available_memory() + estimate.resident)}
    if device.type == "cuda":
        needs["main memory"] = (sum(estimate.main.values()), needs["main memory"][1])
        needs[f"memory of {device}"] = (sum(estimate.device.values()), free_memory(device))
    for memory, (needed, free) in needs.items():
        if needed > free:
            raise ResourceError(
                f"The run needs about {needed / 2**30:.1f} GiB of {memory}, and "
                f"{free / 2**30:.1f} GiB are free. Lower --samples or --sequence-length (hidden "
                "states), free memory, or use a machine with more."
            )
