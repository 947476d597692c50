"""A model as a skeleton and its blocks: the whole is never in memory.

The skeleton is the Transformers model built without weights. Its embedding, norms and head are read
once; its decoder layers are replaced by placeholders. Running the skeleton does two jobs that would
otherwise need a table of architectures: it records the arguments of every block (masks, rotary
angles and all else that the model passes), and it turns the last block's output into logits exactly
as the model does (final norm, head, scaling, soft-capping). Blocks are read one at a time.
"""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from salient.core.errors import ModelError, library_errors
from salient.core.quant import check_finite
from salient.formats.checkpoint import Checkpoint
from salient.shapes.config_reader import KEYS

from .adapted_files import AdaptedFiles, before_replacement
from .block_call import BlockCall, BlockPlaceholder, ExtraOutput, StopForward, block_errors
from .build import block_list, build_model, name_of, text_parts
from .linearize import make_plain, unfit_linears
from .lora import Adapter
from .output_head import output_head
from .stored_types import strict_float32
from .ties import stored_ties
from .weight_map import LoadingRules, ParameterFiles

Swap = Callable[[str, nn.Module], None]  # a block's name, and the block without weights


class Skeleton:
    """The model in `source` without its blocks' weights, computing in `dtype` on `device`.

    With `adapter`, all that is read has it merged in.

    blocks: the name of each block, e.g. 'model.layers.0'
    """

    def __init__(
        self,
        source: Checkpoint,
        dtype: torch.dtype,
        device: torch.device,
        adapter: Adapter | None = None,
    ):
        self.source, self.dtype, self.device, self.adapter = source, dtype, device, adapter
        self.resized: int | None = None  # rows of the embedding, by the adapter
        self._tied = {}
        name, layers = self._build(tied=True)
        if self.files.rows not in (None, self.vocabulary):
            self.resized = self.files.rows
            name, layers = self._build(tied=True)
        self.ties = stored_ties(self.model, self.files)
        if self.ties.untied:
            name, layers = self._build(tied=False)
        for missing, target in self.ties.aliases.items():
            self.files.alias(missing, target)
        self._repeats = {*self.ties.copies, *self.ties.aliases.values()}
        self._strict = strict_float32(self.model)
        self.blocks = [f"{name}.{i}" for i in range(len(layers))]
        self._meta = list(layers)
        self._calls: list[BlockCall] = []
        self._hidden: Tensor | None = None
        self._inject: Tensor | None = None
        # Outputs of a block other than the hidden states; () alone in a tuple, '' bare.
        self._extra_outputs: tuple[Any, ...] | str | None = None
        for index, block in enumerate(self._meta):
            layers[index] = BlockPlaceholder(block, self._reached, index)
        self._stubs = tuple(f"{block}." for block in self.blocks)
        self.head = output_head(self.model, source.folder)
        self._head = name_of(self.model, self.model.get_output_embeddings())
        self._text = (f"{self._head}.", *text_parts(self.model))
        self._has_body = self._has_head = False

    def _build(self, *, tied: bool) -> tuple[str, nn.ModuleList]:
        """Build the model and map it to the files; the name and the list of its blocks."""
        self.model = build_model(self.source, self.dtype, tied=tied, vocabulary=self.resized)
        self._tied: dict[str, str] = self._tied or self.model.all_tied_weights_keys
        wanted = self.model.state_dict()
        name, layers = block_list(self.model)
        fused = self.adapter and before_replacement(self.model, self.adapter)
        self.architecture = LoadingRules(self.model, wanted, make_plain(layers, name))
        self.files = (
            AdaptedFiles(self.architecture, self.source, self.adapter, self._tied, fused)
            if self.adapter
            else ParameterFiles(self.architecture, self.source)
        )
        return name, layers

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.model.get_input_embeddings().weight.shape[0]

    @property
    def head_name(self) -> str:
        """The name of the head's weight."""
        return f"{self._head}.weight"

    @property
    def embedding_name(self) -> str:
        """The name of the embedding's weight."""
        return f"{name_of(self.model, self.model.get_input_embeddings())}.weight"

    @property
    def width(self) -> int:
        """Channels of the hidden states between blocks."""
        return self.model.config.get_text_config().hidden_size

    @property
    def longest_context(self) -> int | None:
        """The model's maximum positions, None if its config has none."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def experts_per_token(self) -> int | None:
        """Experts per token, None if the config has none."""
        config = self.model.config.get_text_config()
        values = (getattr(config, key, None) for key in KEYS["num_experts_per_tok"])
        return next((value for value in values if isinstance(value, int)), None)

    def outer_modules(self) -> list[str]:
        """Names of the linears that belong to no block (they are never quantized)."""
        linears = [n for n, m in self.model.named_modules() if isinstance(m, nn.Linear)]
        return [name for name in linears if not name.startswith(self._stubs)]

    def tower_modules(self) -> list[str]:
        """The outer linears without the head, which no engine takes for quantized."""
        return [name for name in self.outer_modules() if name != self._head]

    def outer_bytes(self) -> int:
        """Bytes of all that text passes outside the blocks, in the skeleton's dtype.

        A tied head counts once; vision towers are never read.
        """
        outer = [p for n, p in self.model.named_parameters() if self._is_outer_text(n)]
        return sum(p.numel() for p in outer) * torch.finfo(self.dtype).bits // 8

    def outer_names(self) -> list[str]:
        """The parameters and buffers that the files store and that belong to no block.

        An equal copy of a tied parameter is left out.
        """
        names = self.files.names().keys() - self._repeats
        return sorted(name for name in names if not name.startswith(self._stubs))

    def unknown_names(self) -> list[str]:
        """The tensors of the files that are no part of the model that Transformers builds."""
        used = set(self.files.names().values())
        return [name for name in self.source.parameter_names() if name not in used]

    def _is_outer_text(self, name: str) -> bool:
        return not name.startswith(self._stubs) and name.startswith(self._text)

    def bare(self, index: int) -> nn.Module:
        """Block `index` without weights."""
        return self._meta[index]

    def linears(self, index: int) -> dict[str, nn.Linear]:
        """The linears of block `index` by their name within it; without weights."""
        return {n: m for n, m in self._meta[index].named_modules() if isinstance(m, nn.Linear)}

    def unfit(self, index: int) -> dict[str, str]:
        """The unquantized linears of block `index`: name within it -> reason.

        Routers and gates have few weights and much influence; engines expect them in 16-bit.
        """
        return unfit_linears(self._meta[index])

    def parameter_names(self, index: int) -> list[str]:
        """The full names of all parameters and stored buffers of block `index`."""
        return [f"{self.blocks[index]}.{name}" for name in self._meta[index].state_dict()]

    def block(
        self, index: int, dtype: torch.dtype | None = None, swap: Swap | None = None
    ) -> nn.Module:
        """Block `index` with its weights, in `dtype` (the skeleton's by default).

        `swap` may replace parts of it before anything is read. Raises ModelError on NaN.
        """
        module = copy.deepcopy(self._meta[index])
        prefix = self.blocks[index]
        if swap is not None:
            swap(prefix, module)
        with self.source.reading():
            for name, target in list(module.state_dict().items()):
                self._assign(module, name, f"{prefix}.{name}", target, dtype or self.dtype)
        return module.to(self.device).eval().requires_grad_(requires_grad=False)

    def calls(self, ids: Tensor) -> tuple[Tensor, list[BlockCall]]:
        """The first block's input for `ids` [samples, tokens], and each block's call.

        The input is [samples, tokens, width].
        """
        self._read_outer(with_head=False)
        if self._extra_outputs is None:
            self._learn_what_blocks_return(ids[:1, :2])
        self._calls, self._hidden, self._inject = [], None, None
        self._forward(ids, body_only=True)
        assert self._hidden is not None
        assert len(self._calls) == len(self.blocks)
        return self._hidden, self._calls

    def logits(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """The answers as logits [samples, tokens, classes] (models/output_head.py)."""
        answers = self.answers(ids, hidden)
        if self.head.kind == "tokens":
            return answers
        return torch.stack([self.head.classes(sample) for sample in answers])

    def answers(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """The head's answers at each position, from the last block's output.

        Of a language model logits [samples, tokens, vocab], in the skeleton's dtype. A `hidden`
        that requires gradients has those of the answers.
        """
        self._read_outer(with_head=True)
        if self._extra_outputs is None:
            self._learn_what_blocks_return(ids[:1, :2])
        self._calls, self._inject = [], hidden.to(self.device, self.dtype)
        try:
            if self.head.kind == "tokens":
                return self._forward(ids, body_only=False).logits
            final = self._forward(ids, body_only=True).last_hidden_state
            with torch.set_grad_enabled(final.requires_grad):
                return self.head.read(self.model, final)
        finally:
            self._inject = None

    def assemble(self, swap: Swap | None = None) -> Any:
        """The whole model, every block read and put back in its place. The skeleton is used up."""
        self._text = ("",)  # vision towers, too
        self._has_body = False
        self._read_outer(with_head=True)
        layers = self.model.get_submodule(self.blocks[0].rpartition(".")[0])
        for index in range(len(self.blocks)):
            layers[index] = self.block(index, swap=swap)
        return self.model

    def forget_outer(self) -> None:
        """Free the embedding, norms and head until their next use."""
        for module in self.model.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    module._parameters[name] = nn.Parameter(value.to("meta"), requires_grad=False)
        self._has_body = self._has_head = False

    def _forward(self, ids: Tensor, *, body_only: bool) -> Any:
        model = self.model.base_model if body_only else self.model
        fault = f"{type(self.model).__name__} cannot be run block by block"
        gradients = self._inject is not None and self._inject.requires_grad
        with (
            torch.set_grad_enabled(gradients),
            library_errors(fault, "It does more between its blocks than Salient follows."),
        ):
            return model(input_ids=ids.to(self.device), use_cache=False)

    def _learn_what_blocks_return(self, ids: Tensor) -> None:
        """Some models' blocks return a tensor, others a tuple: run the first block to see."""
        self._calls, self._hidden, self._inject = [], None, None
        with contextlib.suppress(StopForward):
            self._forward(ids, body_only=True)
        assert self._hidden is not None
        if self._hidden.shape[:-1] != ids.shape:
            raise ModelError(
                f"{type(self.model).__name__} hands its blocks hidden states of the shape "
                f"{list(self._hidden.shape)} for tokens {list(ids.shape)}: more than one state a "
                "token (as Gemma 3n), which Salient does not stream."
            )
        block, call = self.block(0), self._calls[0]
        with torch.no_grad(), block_errors(call):
            out = block(self._hidden, *call.args, **call.kwargs)
        several = isinstance(out, tuple)
        self._extra_outputs = (
            tuple(None if o is None else ExtraOutput() for o in out[1:]) if several else ""
        )

    def _reached(self, index: int, hidden: Tensor, call: BlockCall) -> Any:
        handed = [v for v in tree_leaves((call.args, call.kwargs)) if isinstance(v, ExtraOutput)]
        if handed or not isinstance(hidden, Tensor):
            raise ModelError(
                f"{self.blocks[index]!r} takes more from the block before it than hidden states: "
                f"{type(self.model).__name__} cannot be run block by block."
            )
        named = f"{self.blocks[index]!r} of {type(self.model).__name__}"
        self._calls.append(replace(call, block=named))
        if index == 0:
            self._hidden = hidden
            if self._extra_outputs is None:
                raise StopForward
            if self._inject is not None:
                hidden = self._inject
        return (
            hidden
            if isinstance(self._extra_outputs, str)
            else (hidden, *(self._extra_outputs or ()))
        )

    def _read_outer(self, *, with_head: bool) -> None:
        """Read the tensors outside the blocks that are not loaded yet.

        The head is read only for logits: it is large.
        """
        if self._has_body and (self._has_head or not with_head):
            return
        with self.source.reading():
            for name, target in list(self.model.state_dict().items()):
                in_head = name.rpartition(".")[0] == self._head
                wanted = (with_head and not self._has_head) if in_head else not self._has_body
                tied = in_head and (name not in self.files or name in self._repeats)
                if wanted and not tied and self._is_outer_text(name):
                    self._assign(self.model, name, name, target, self.dtype)
        if with_head:
            self._tie()
        self._has_body, self._has_head = True, with_head or self._has_head
        self._body_to_device()
        self.model.eval().requires_grad_(requires_grad=False)

    def _tie(self) -> None:
        """Tie a head that the files lack to the embedding, if the config says so."""
        self.model.tie_weights()
        for name, parameter in self.model.named_parameters():
            if parameter.is_meta and name.rpartition(".")[0] == self._head:
                self.files.read(name)  # raises: the files lack it

    def _body_to_device(self) -> None:
        for module in self.model.modules():
            for store in (module._parameters, module._buffers):
                for name, value in store.items():
                    if value is not None and not value.is_meta:
                        moved = value.to(self.device)
                        store[name] = (
                            nn.Parameter(moved, requires_grad=False)
                            if store is module._parameters
                            else moved
                        )

    def _assign(
        self, module: nn.Module, local: str, name: str, target: Tensor, dtype: torch.dtype
    ) -> None:
        value = self.files.read(name)
        if value.shape != target.shape:
            raise ModelError(
                f"{name!r} is {list(value.shape)} on disk, but config.json makes it "
                f"{list(target.shape)}. config.json and the safetensors do not belong together."
            )
        check_finite(name, value)
        value = value.contiguous()  # a part of a stored tensor may be transposed
        if self._strict is not None and self._strict.search(name):
            dtype = torch.float32
        converted = value.to(dtype) if value.is_floating_point() else value
        owner = module.get_submodule(local.rpartition(".")[0])
        leaf = local.rpartition(".")[2]
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(
                converted.clone() if converted is value else converted, requires_grad=False
            )
        else:
            owner._buffers[leaf] = converted
