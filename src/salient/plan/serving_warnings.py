"""Warnings before hours are spent: where a checkpoint that is about to be made will serve badly."""

from collections.abc import Mapping
from typing import Any

from salient.core.errors import ModelError
from salient.core.scheme import GROUP_SIZES, Scheme
from salient.plan.vllm.route import ServingTarget, WeightPacking, fitting_tp, route
from salient.shapes.from_config import read_shape
from salient.shapes.model_shape import ModelShape

from .device_names import find_gpu

_DEVICES = ("RTX 4090", "H100")  # where most people serve
_COMMON_TP = (2, 4, 8)


def serving_warnings(config: Mapping[str, Any], scheme: Scheme, method: str) -> list[str]:
    """Sentences about a checkpoint of `scheme` in the format `method`.

    Empty where it serves well, or where the config is not known well enough.
    """
    try:
        shape = read_shape(config)
    except ModelError:
        return []
    return [*_tensor_parallel(shape, scheme), *_slow(shape, scheme, method)]


def _tensor_parallel(shape: ModelShape, scheme: Scheme) -> list[str]:
    """GPUs over which this group size cannot be cut, though the model's heads could."""
    sizes, fits = fitting_tp(shape, 1), fitting_tp(shape, scheme.group_size)
    lost = [tp for tp in _COMMON_TP if tp in sizes and tp not in fits]
    if not lost:
        return []
    better = [g for g in GROUP_SIZES if g < scheme.group_size and lost[0] in fitting_tp(shape, g)]
    change = f" --scheme w4-g{better[0]} would." if better else " Pipeline parallelism would."
    return [
        f"Groups of {scheme.group_size} cannot be cut over {lost[0]} GPUs by tensor parallelism "
        f"(sizes that work: {', '.join(map(str, fits))}).{change}"
    ]


def _slow(shape: ModelShape, scheme: Scheme, method: str) -> list[str]:
    zeros = method == "awq" or not scheme.symmetric
    packing = WeightPacking(method, scheme.group_size, zeros)
    routes = {name: route(shape, packing, ServingTarget(find_gpu(name))) for name in _DEVICES}
    return [
        f"On {name}, vLLM: {kernel_route.why}.{' '.join(['', *kernel_route.do[:1]])}"
        for name, kernel_route in routes.items()
        if kernel_route.pace != "fast"
    ]
