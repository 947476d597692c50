"""Load a checkpoint as a Transformers model with quantized linears."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from salient.core.dtypes import stored_sixteen_bits
from salient.core.errors import CheckpointError
from salient.core.evidence import find_changed
from salient.core.model_files import as_object
from salient.core.quant import QuantizedWeight
from salient.formats.checkpoint import Checkpoint, open_checkpoint
from salient.kernels.base import Layer, PackedWeight
from salient.kernels.cpu_library import Library, load_library
from salient.kernels.registry import NEVER, measured_crossover, select_kernel
from salient.models.companions import find_companions
from salient.models.lora import Adapter
from salient.models.model_folder import model_folder
from salient.models.pretrained import set_generation_config
from salient.models.skeleton import Skeleton
from salient.models.tokens import load_tokenizer

from .linear import HalfEmbedding, HalfLinear, QuantLinear

_log = logging.getLogger("salient")
# Linears that read the same input, by their names in Transformers' attention and MLP modules.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass
class MergedSiblings:
    """Sibling linears packed as one weight: `packed` computes all at once."""

    packed: PackedWeight
    parts: list[QuantLinear]


@dataclass
class LoadedModel:
    """A loaded checkpoint.

    module: the Transformers model   tokenizer: its tokenizer   config: of its text part
    dtype: of the activations   kernels: (kernel, why) -> how many linears it has
    merged: parent module -> its merged siblings; unmerged: parent module -> why not
    crossover: from how many rows on a dense product is faster, and its dtype
    """

    checkpoint: Checkpoint
    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    kernels: Counter[tuple[str, str]] = field(default_factory=Counter)
    merged: dict[str, MergedSiblings] = field(default_factory=dict)
    unmerged: dict[str, str] = field(default_factory=dict)
    crossover: tuple[int, torch.dtype] = (NEVER, torch.float32)

    @property
    def embedding(self) -> "nn.Embedding | HalfEmbedding":
        return cast("nn.Embedding | HalfEmbedding", self.module.get_input_embeddings())

    @property
    def config(self) -> PreTrainedConfig:
        """The config of the part that makes text."""
        return self.module.config.get_text_config()


def load_model(
    checkpoint: str,
    device: torch.device,
    dtype: torch.dtype,
    kernel: str = "auto",
    adapter: Adapter | None = None,
) -> LoadedModel:
    """The model of `checkpoint`, 4-bit or 16-bit, without dequantizing the model as a whole.

    Logs a warning for files that are not as its salient.json has them. Raises ModelError,
    CheckpointError for inconsistent files.
    """
    source = open_checkpoint(model_folder(checkpoint))
    if note := find_changed(source.folder).note:
        _log.warning("warning: %s", note)
    skeleton = Skeleton(source, dtype, device, adapter)
    skeleton.head.check_generates(checkpoint)
    companions = find_companions(source.folder, adapter)
    tokenizer = load_tokenizer(companions.folder)
    model = LoadedModel(source, skeleton.model, tokenizer, device, dtype)
    loader = _Loader(model, skeleton, kernel)
    with torch.no_grad(), source.reading():
        skeleton.assemble(loader.swap)
        _use_half_embeddings(model)
    set_generation_config(model.module, companions.folder)
    loader.measure()
    return model


class _Loader:
    """Replaces the linears of a model by QuantLinears, block by block."""

    def __init__(self, model: LoadedModel, skeleton: Skeleton, kernel: str):
        self.model, self.skeleton, self.kernel = model, skeleton, kernel
        self.linears: list[QuantLinear] = []

    def swap(self, prefix: str, block: nn.Module) -> None:
        """Replace the linears of `block` that are stored as codes."""
        for path, parent in list(block.named_modules()):
            home = ".".join(filter(None, (prefix, path)))
            linears = {
                name: child
                for name, child in parent.named_children()
                if isinstance(child, nn.Linear) and self._is_stored(f"{home}.{name}")
            }
            for siblings in SIBLINGS:
                if all(name in linears for name in siblings):
                    self._join(home, parent, {name: linears.pop(name) for name in siblings})
            for name, child in linears.items():
                self._put(parent, name, child, self._packed(self._codes(f"{home}.{name}", child)))

    def _is_stored(self, name: str) -> bool:
        stored = self.skeleton.files.stored(f"{name}.weight")
        return stored.part is None and self.model.checkpoint.is_quantized(
            self.skeleton.files.module(name)
        )

    def _codes(self, name: str, linear: nn.Linear) -> QuantizedWeight:
        weight = self.model.checkpoint.quantized(self.skeleton.files.module(name))
        shape, expected = list(weight.codes.shape), [linear.out_features, linear.in_features]
        if shape != expected:
            raise CheckpointError(
                f"{name!r} has codes for {shape}, but config.json makes it {expected}. config.json "
                "and the safetensors do not belong together: fetch the checkpoint again."
            )
        return weight

    def _packed(self, weight: QuantizedWeight, linears: int = 1) -> PackedWeight:
        """`weight` packed by the selected kernel; counted as `linears`."""
        out, width = weight.codes.shape
        layer = Layer(out, width, weight.scheme, self.model.device, self.model.dtype)
        choice = select_kernel(layer, self.kernel)
        self.model.kernels[choice.kernel.name, choice.why] += linears
        return choice.kernel(weight, layer)

    def _put(self, parent: nn.Module, name: str, linear: nn.Linear, packed: PackedWeight) -> None:
        self.linears.append(QuantLinear(packed, linear.bias))
        setattr(parent, name, self.linears[-1])

    def _join(self, home: str, parent: nn.Module, linears: dict[str, nn.Linear]) -> None:
        """Pack siblings as one weight; each is a view of its rows."""
        weights = [self._codes(f"{home}.{name}", linear) for name, linear in linears.items()]
        if len({weight.scheme for weight in weights}) > 1:
            self.model.unmerged[home] = "their schemes differ"
            for (name, linear), weight in zip(linears.items(), weights, strict=True):
                self._put(parent, name, linear, self._packed(weight))
            return
        tensors = zip(*((w.codes, w.scale, w.zero) for w in weights), strict=True)
        codes, scale, zero = map(torch.cat, tensors)
        joined = QuantizedWeight(codes, scale, zero, weights[0].scheme)
        whole = self._packed(joined, len(weights))
        stops = [0, *accumulate(weight.codes.shape[0] for weight in weights)]
        views = [whole.rows(*ends) for ends in pairwise(stops)]
        parts = [view for view in views if view is not None]
        split = len(parts) == len(views)
        if not split:
            self.model.unmerged[home] = f"the kernel {whole.name!r} cannot split its rows"
            parts = [self._packed(weight, 0) for weight in weights]
        for (name, linear), packed in zip(linears.items(), parts, strict=True):
            self._put(parent, name, linear, packed)
        if split:
            self.model.merged[home] = MergedSiblings(whole, self.linears[-len(parts) :])

    def measure(self) -> None:
        """Measure on the largest linear from how many rows on dense products are faster."""
        if not self.linears:
            return
        largest = max(self.linears, key=lambda linear: linear.packed.out * linear.packed.width)
        self.model.crossover = measured_crossover(largest.packed, self.model.device)
        for linear in self.linears:
            linear.dense_rows, linear.dense_dtype = self.model.crossover


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all weights; shared tensors count once."""
    tensors = [*module.parameters(), *module.buffers()]
    stores = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(stores.values())


def _use_half_embeddings(model: LoadedModel) -> None:
    """Store embedding and head in the checkpoint's 16-bit dtype, if that is exact and the C++
    kernels multiply it by float32."""
    config = model.checkpoint.config
    stored = stored_sixteen_bits({**as_object(config.get("text_config")), **config})
    embedding, head = model.module.get_input_embeddings(), model.module.get_output_embeddings()
    multiplied = model.device.type == "cpu" and isinstance(load_library(), Library)
    if model.dtype != torch.float32 or not multiplied or stored is None:
        return
    if not isinstance(embedding, nn.Embedding):
        return
    factor = float(getattr(embedding, "embed_scale", 1.0))
    ids = torch.arange(min(embedding.num_embeddings, 64), device=embedding.weight.device)
    if not torch.allclose(embedding(ids), embedding.weight[ids] * factor, rtol=1e-6, atol=0):
        return  # it gives more than rows of its weight times a factor
    half = {}
    for module in (embedding, head):
        if module is not None and module.weight.data_ptr() not in half:  # a tied head shares
            half_weight = module.weight.to(stored)
            if not torch.equal(half_weight.float(), module.weight):
                return
            half[module.weight.data_ptr()] = nn.Parameter(half_weight, requires_grad=False)
    if isinstance(head, nn.Linear):
        weight = half[head.weight.data_ptr()]
        model.module.set_output_embeddings(HalfLinear(weight, head.bias))
    weight = half[embedding.weight.data_ptr()]
    model.module.set_input_embeddings(HalfEmbedding(weight, model.dtype, factor))
