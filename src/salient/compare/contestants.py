"""Contestants: roundings of the reference's linears, made block by block, and checkpoints.

A rounding gives the dequantized weight that the library itself would compute with, and its bits a
weight. All roundings take the same linears, those that `salient quantize` quantizes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from salient.awq.error_feedback import with_feedback
from salient.awq.layer_selection import LayerSelection
from salient.core.errors import MissingExtra, RequestError
from salient.core.progress import Progress
from salient.core.quant import minmax_grid, quantize
from salient.core.scheme import Scheme
from salient.formats.checkpoint import Checkpoint
from salient.formats.writer import write_json, write_tensors
from salient.models.block_call import InputRecorder
from salient.models.skeleton import Skeleton
from salient.validate.likelihood.streaming import WindowStream

Rounding = Callable[[Tensor], Tensor]  # a weight [out, in] -> what it is after quantization
DONE = "made.json"
NF4_BLOCK = 64


@dataclass(frozen=True)
class Method:
    """A way to round a linear. bits: a weight   label: what ran   grouped: divides the inputs"""

    label: str
    bits: float
    grouped: int
    round: Rounding


class RoundedSkeleton(Skeleton):
    """A reference whose linears are read from the files of `make_rounded` in `folder`."""

    def __init__(self, source: Checkpoint, device: torch.device, folder: Path):
        super().__init__(source, torch.float32, device)
        self.folder = folder

    def block(self, index: int, *args: Any, **options: Any) -> nn.Module:
        """Block `index` with its rounded linears."""
        module = super().block(index, *args, **options)
        for name, weight in load_file(self.folder / f"{index}.safetensors").items():
            linear = module.get_submodule(name)
            linear.weight = nn.Parameter(weight.to(self.device).float(), requires_grad=False)
        return module


def find_method(name: str, scheme: Scheme) -> Method:
    """The rounding called `name`. Raises MissingExtra or RequestError with why it cannot run."""
    if name == "rtn":
        return Method(
            f"rtn {scheme}: plain rounding",
            scheme.bits_per_weight,
            scheme.group_size,
            lambda weight: quantize(weight, scheme, name="a linear").dequantize(),
        )
    if name in ("q4_0", "q4_1"):
        return _gguf_method(name)
    if name == "nf4":
        return _nf4_method()
    raise RequestError(
        f"No contestant {name!r}. Known: awq, rtn, gptq, nf4, q4_0, q4_1; or the path of a "
        "checkpoint, such as a .gguf file of llama.cpp's quantize for K-quants."
    )


def _gguf_method(name: str) -> Method:
    try:
        quants: Any = import_module("gguf.quants")
        kinds: Any = import_module("gguf").GGMLQuantizationType
    except ImportError:
        raise MissingExtra(f"{name} needs gguf: pip install 'salient-awq[demo]'") from None
    kind = kinds[name.upper()]

    def rounded(weight: Tensor) -> Tensor:
        return torch.from_numpy(
            quants.dequantize(quants.quantize(weight.float().cpu().numpy(), kind), kind)
        )

    return Method(f"{name}: the gguf library", {"q4_0": 4.5, "q4_1": 5.0}[name], 32, rounded)


def _nf4_method() -> Method:
    try:
        functional: Any = import_module("bitsandbytes.functional")
    except ImportError:
        raise MissingExtra("nf4 needs bitsandbytes: pip install bitsandbytes") from None

    def rounded(weight: Tensor) -> Tensor:
        packed, state = functional.quantize_4bit(
            weight.float().contiguous(), blocksize=NF4_BLOCK, quant_type="nf4"
        )
        return functional.dequantize_4bit(packed, state).float()

    return Method("nf4: bitsandbytes, blocks of 64", 4 + 32 / NF4_BLOCK, NF4_BLOCK, rounded)


def make_rounded(
    skeleton: Skeleton, layers: LayerSelection, method: Method, folder: Path, progress: Progress
) -> float:
    """Round each block's linears into `folder`, finished ones stay; the seconds that it took."""
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    for index, block in enumerate(skeleton.blocks):
        progress(index, len(skeleton.blocks), method.label)
        path = folder / f"{index}.safetensors"
        if path.is_file():
            continue
        module, weights = skeleton.block(index), dict[str, Tensor]()
        for name in skeleton.linears(index):
            if f"{block}.{name}" in layers.quantized:
                weight = _weight(module, name)
                if weight.shape[1] % method.grouped == 0:
                    weights[name] = method.round(weight)
        write_tensors(path, weights)
    return _done(folder, time.monotonic() - started)


def make_gptq(
    skeleton: Skeleton, layers: LayerSelection, ids: Tensor, folder: Path, progress: Progress
) -> float:
    """Round by error feedback without scales, each block on the output of the rounded ones before.

    Frantar et al. 2023, "GPTQ", with this package's damping and plain rounding's grids.
    """
    started, scheme = time.monotonic(), layers.scheme
    folder.mkdir(parents=True, exist_ok=True)
    stream = WindowStream(skeleton, ids)
    hidden = stream.start
    for index, block in enumerate(skeleton.blocks):
        progress(index, len(skeleton.blocks), "gptq: error feedback")
        module = skeleton.block(index)
        names = [n for n in skeleton.linears(index) if f"{block}.{n}" in layers.quantized]
        path, weights = folder / f"{index}.safetensors", dict[str, Tensor]()
        if path.is_file():
            weights = load_file(path)
        else:
            with InputRecorder(module, names) as recorder:
                stream.run(index, module, hidden)
            for name in names:
                weight = _weight(module, name).float()
                inputs = recorder.inputs.get(name)
                grid = minmax_grid(weight, scheme, torch.float16)
                if inputs is not None:
                    gram = inputs.t() @ inputs
                    ones = torch.ones(weight.shape[1], device=weight.device)
                    weight = with_feedback(weight, grid, gram, ones, scheme)
                weights[name] = quantize(weight, scheme, name=name, grid=grid).dequantize()
            write_tensors(path, weights)
        for name, weight in weights.items():
            device = _weight(module, name).device
            module.get_submodule(name).weight = nn.Parameter(weight.to(device), requires_grad=False)
        hidden = stream.run(index, module, hidden)
    return _done(folder, time.monotonic() - started)


def _weight(module: nn.Module, name: str) -> Tensor:
    weight = module.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _done(folder: Path, seconds: float) -> float:
    write_json(folder / DONE, {"seconds": round(seconds, 1)})
    return seconds
