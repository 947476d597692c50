"""What to know before hours are spent: quantize runs the plan and says where serving will hurt."""

from collections.abc import Mapping
from typing import Any

from salient.core.errors import ModelError
from salient.core.scheme import GROUP_SIZES, Scheme
from salient.plan.vllm.route import ServingTarget, WeightPacking, fitting_tp, route
from salient.shapes.from_config import read_shape
from salient.shapes.model_shape import ModelShape

from .gpus import find_gpu

# where people serve: each is asked whether its fast kernel takes the checkpoint
_ASKED = ("RTX 4090", "H100")
_COMMON_TP = (2, 4, 8)


def forewarnings(config: Mapping[str, Any], scheme: Scheme, method: str) -> list[str]:
    """Sentences about a checkpoint of `scheme` in the format `method` that is yet to be made.

    Empty where nothing will hurt, or where the config says too little to know.
    """
    try:
        shape = read_shape(config)
    except ModelError:
        return []
    return [*_tensor_parallel(shape, scheme), *_slow(shape, scheme, method)]


def _tensor_parallel(shape: ModelShape, scheme: Scheme) -> list[str]:
    """GPUs over which this group size cannot be cut, though the model's heads could."""
    whole = fitting_tp(shape, 1)
    fits = fitting_tp(shape, scheme.group_size)
    lost = [tp for tp in _COMMON_TP if tp in whole and tp not in fits]
    if not lost:
        return []
    better = [g for g in GROUP_SIZES if g < scheme.group_size and lost[0] in fitting_tp(shape, g)]
    words = ", ".join(map(str, fits))
    change = f" --scheme w4-g{better[0]} would." if better else " Pipeline parallelism would."
    return [
        f"Groups of {scheme.group_size} cannot be cut over {lost[0]} GPUs by tensor parallelism "
        f"(sizes that work: {words}).{change}"
    ]


def _slow(shape: ModelShape, scheme: Scheme, method: str) -> list[str]:
    packing = WeightPacking(
        method, scheme.group_size, zeros=method == "awq" or not scheme.symmetric
    )
    said = []
    for name in _ASKED:
        made = route(shape, packing, ServingTarget(find_gpu(name)))
        if made.pace != "fast":
            do = f" {made.do[0]}" if made.do else ""
            said.append(f"On {name}, vLLM: {made.why}.{do}")
    return said
