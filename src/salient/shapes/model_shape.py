"""A model's shape: its matrices, its cache, and the counts of parameters that follow.

`from_config` makes a shape of a config.json. The counts are exact, except where `rough` says what
was not read. Imports no torch.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import Literal

from .rope import RopeShape

Part = Literal["attention", "mlp", "experts", "shared experts", "router", "mixer"]


@dataclass(frozen=True)
class LinearShape:
    """A matrix of a block (or `copies` of it: experts).

    name: its path in the block, "self_attn.q_proj"; of experts "mlp.experts.*.gate_proj", also
        where the files keep all experts in one tensor
    out, width: output and input features
    part: what it belongs to; a "mixer" replaces attention (Mamba, delta rule)
    split: how tensor parallelism cuts it: over its outputs (column parallel), its inputs (row
        parallel), or not at all
    joined: the module that engines merge it into ("qkv_proj", "gate_up_proj"), "" if none
    bias: whether it has one, of `out` values
    copies, active: experts, and how many of them a token passes through
    unquantized: whether it stays so in every 4-bit format (routers, gates of a few outputs)
    """

    name: str
    out: int
    width: int
    part: Part = "attention"
    split: Literal["out", "in", "none"] = "out"
    joined: str = ""
    bias: bool = False
    copies: int = 1
    active: int = 1
    unquantized: bool = False

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.out, self.width, self.part, self.copies, self.active))

    def __hash__(self) -> int:
        """Computed once: shapes are counted often, and most blocks share theirs."""
        return self._hash

    @property
    def weights(self) -> int:
        """Elements of the matrix, over all copies."""
        return self.out * self.width * self.copies

    @property
    def biases(self) -> int:
        return self.out * self.copies if self.bias else 0

    @property
    def active_weights(self) -> int:
        """Elements that one token multiplies."""
        return self.out * self.width * self.active


@dataclass(frozen=True)
class CacheShape:
    """A block's cache of each sequence.

    values: numbers a token, over all heads: 2 * kv_heads * head_dim, or MLA's latent + rotary part
    heads: the key-value heads over which tensor parallelism can divide it (1: every GPU holds all)
    window: tokens that it holds at most (sliding window), None for all
    state: numbers a sequence, however long it is (Mamba, delta rule)
    entry_values: numbers in addition for every `entry_tokens` tokens, beyond any window and whole
        on every GPU (the keys of an indexer, DeepSeek-V4's compressed entries)
    """

    values: int = 0
    heads: int = 1
    window: int | None = None
    state: int = 0
    entry_values: int = 0
    entry_tokens: int = 1

    def tokens(self, context: int) -> int:
        """How many of `context` tokens it holds."""
        return context if self.window is None else min(context, self.window)


@dataclass(frozen=True)
class BlockShape:
    """One decoder layer. kind: a label such as "sliding attention, experts"."""

    kind: str
    linears: tuple[LinearShape, ...]
    cache: CacheShape
    other: int = 0  # parameters that are no matrix of a linear: norms, sinks, convolutions

    @cached_property
    def _hash(self) -> int:
        return hash((self.kind, self.linears, self.cache, self.other))

    def __hash__(self) -> int:
        return self._hash

    @property
    def parameters(self) -> int:
        return self.other + sum(linear.weights + linear.biases for linear in self.linears)


@dataclass(frozen=True)
class ModelShape:
    """A whole model.

    embedding: parameters of the token (and learned position) embeddings
    head: parameters of the output head, 0 where it is tied to the embedding
    other: parameters outside blocks: final norms, projections of embeddings
    towers: unquantized parts outside the language model, by name: "vision tower", ...
    context: maximum context length, None where the config has none
    dtype: type of the stored weights, "bfloat16"
    quantization: the config's quantization_config, {} for a 16-bit model
    notes: assumptions
    rough: why the counts are not exact: keys that were not read, an unknown family
    low, high: bounds of `parameters` where it is rough, None where it is exact
    cache_low, cache_high: bounds of the cache, in shares of the one that is counted
    assumed: keys that the config lacks and whose default was taken
    ahead: parameters of the layers for multi-token prediction, not in `parameters`: they are in the
        files, but engines load them for speculative decoding only
    rope: its rotary positions
    stored_bytes: of all tensors, by the headers or the index, None without them
    architecture: the class that engines look up, "" where the config names none
    """

    model_type: str
    hidden: int
    vocab: int
    blocks: tuple[BlockShape, ...]
    embedding: int
    head: int
    other: int = 0
    towers: dict[str, int] = field(default_factory=dict[str, int])
    context: int | None = None
    dtype: str = "bfloat16"
    quantization: dict[str, object] = field(default_factory=dict[str, object])
    notes: tuple[str, ...] = ()
    rough: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None
    cache_low: float = 1.0
    cache_high: float = 1.0
    assumed: tuple[str, ...] = ()
    ahead: int = 0
    stored_bytes: int | None = None
    rope: RopeShape = field(default_factory=RopeShape)
    architecture: str = ""

    @property
    def exact(self) -> bool:
        return not self.rough

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the most of the parameters, in shares of the count."""
        count = max(1, self.parameters)
        low = 1.0 if self.low is None else self.low / count
        return low, 1.0 if self.high is None else self.high / count

    @property
    def files_parameters(self) -> int:
        """Those in the files, with the layers for multi-token prediction."""
        return self.parameters + self.ahead

    @property
    def tied(self) -> bool:
        return self.head == 0

    @cached_property
    def linears(self) -> tuple[LinearShape, ...]:
        """Every block's linears, block after block."""
        return tuple(linear for block in self.blocks for linear in block.linears)

    @cached_property
    def caches(self) -> tuple[tuple[CacheShape, int], ...]:
        """Every distinct cache, and how many blocks have it."""
        return tuple(Counter(block.cache for block in self.blocks).items())

    @cached_property
    def parameters(self) -> int:
        """All of them, a tied head once."""
        blocks = sum(block.parameters for block in self.blocks)
        return self.embedding + self.head + self.other + blocks + sum(self.towers.values())

    @property
    def parts(self) -> dict[str, int]:
        """Parameters by part, without the towers; norms and the like are "other"."""
        counts = {"embedding": self.embedding, "head": self.head}
        for linear in self.linears:
            counts[linear.part] = counts.get(linear.part, 0) + linear.weights + linear.biases
        return counts | {"other": self.other + sum(block.other for block in self.blocks)}

    @property
    def active_parameters(self) -> int:
        """Those of the language model that one token passes: the chosen experts only.

        The embedding counts whole, as most published figures have it (gpt-oss's leave it out).
        """
        idle = sum(
            (linear.copies - linear.active) * (linear.out * linear.width + linear.bias * linear.out)
            for linear in self.linears
        )
        return self.parameters - sum(self.towers.values()) - idle

    @cached_property
    def multiplied(self) -> int:
        """Elements of the blocks' matrices that one token passes."""
        return sum(linear.active_weights for linear in self.linears)

    @property
    def head_weights(self) -> int:
        """Elements of the matrix that makes the logits, tied or not."""
        return self.vocab * self.hidden

    def count(self, which: Callable[[LinearShape], bool]) -> int:
        """Elements of the matrices for which `which` holds."""
        return sum(linear.weights for linear in self.linears if which(linear))

    def cache_values(self, context: int) -> int:
        """Cached numbers of a sequence of `context` tokens, over all blocks."""
        return sum(
            cache.values * cache.tokens(context)
            + cache.entry_values * (context // cache.entry_tokens)
            + cache.state
            for cache in (block.cache for block in self.blocks)
        )

    @property
    def values_per_token(self) -> int:
        """Cached numbers of one more token while no window is full."""
        return self._per_token(lambda cache: True)

    @property
    def values_per_late_token(self) -> int:
        """Cached numbers of one more token of a long context, whose windows are full."""
        most = self.context or 0
        return self._per_token(lambda cache: cache.window is None or cache.window >= most > 0)

    def _per_token(self, grows: Callable[[CacheShape], bool]) -> int:
        entries = sum(
            n * Fraction(cache.entry_values, cache.entry_tokens) for cache, n in self.caches
        )
        return ceil(entries) + sum(n * cache.values for cache, n in self.caches if grows(cache))
