"""Which matrix of a quantized checkpoint is stored in which format."""

from collections import Counter
from dataclasses import dataclass, field, replace

from salient.shapes.model_shape import BlockShape, LinearShape, ModelShape, Part

from .matrix_formats import MatrixFormat
from .module_patterns import ModulePatterns

SIXTEEN = 16.0
# Blocks, and their distinct matrices with the bits of a weight and how many there are.
SizedBlocks = tuple[tuple[BlockShape, ...], list[tuple[LinearShape, float, int]]]


@dataclass(frozen=True, eq=False)
class QuantizationRules:
    """The formats of a checkpoint.

    default: of matrices in blocks that no entry names; experts: the same of experts, if it differs
    entries: lists of modules with their format, None for 16-bit; the first that matches counts
    embedding, head: their formats
    title: of all together, "" where that of each format will do
    """

    default: MatrixFormat | None
    experts: MatrixFormat | None = None
    entries: tuple[tuple[ModulePatterns, MatrixFormat | None], ...] = ()
    embedding: MatrixFormat | None = None
    head: MatrixFormat | None = None
    title: str = ""
    _cache: dict[tuple[int, str], MatrixFormat | None] = field(
        default_factory=dict[tuple[int, str], MatrixFormat | None], repr=False
    )
    _read: list[SizedBlocks] = field(
        default_factory=list[SizedBlocks], repr=False
    )  # of the last shape: a plan sizes it hundreds of times

    def format_of(self, index: int, linear: LinearShape) -> MatrixFormat | None:
        """The format of `linear` in block `index`, None where it stays in 16-bit."""
        if linear.unquantized:
            return None
        key = index, linear.name
        if key not in self._cache:
            default = (self.experts or self.default) if linear.part == "experts" else self.default
            matches = (form for patterns, form in self.entries if patterns.match(index, linear))
            self._cache[key] = next(matches, default)
        return self._cache[key]

    @property
    def forms(self) -> tuple[MatrixFormat, ...]:
        """Every format of matrices in blocks, the default first."""
        forms = (self.default, self.experts, *(form for _, form in self.entries))
        return tuple(dict.fromkeys(form for form in forms if form))

    def bits(self, index: int, linear: LinearShape) -> float:
        """Bits a weight."""
        form = self.format_of(index, linear)
        return form.bits(linear) if form else SIXTEEN

    def ends(self, shape: ModelShape) -> tuple[float, float]:
        """Bits a weight of the embedding and of the head."""
        table = LinearShape("lm_head", shape.vocab, shape.hidden)
        embedding, head = (form.bits(table) if form else SIXTEEN for form in self._ends)
        return embedding, head

    @property
    def _ends(self) -> tuple[MatrixFormat | None, MatrixFormat | None]:
        named = {"embedding": self.embedding, "head": self.head}
        for end in named:
            matches = [form for patterns, form in self.entries if getattr(patterns, end)]
            named[end] = matches[0] if matches else named[end]
        return named["embedding"], named["head"]

    def ahead_bits(self, shape: ModelShape) -> float:
        """Bits a weight of the layers that predict further tokens: of experts where there are."""
        experts = any(linear.part == "experts" for linear in shape.linears)
        name = "mtp.layers.0.mlp.experts.*.up_proj" if experts else "mtp.layers.0.mlp.up_proj"
        part: Part = "experts" if experts else "mlp"
        layer = LinearShape(name, shape.hidden, shape.hidden, part)
        form = self.format_of(len(shape.blocks), layer)
        return form.bits(layer) if form else SIXTEEN

    def matrices(self, shape: ModelShape) -> list[tuple[LinearShape, float, int]]:
        """Every distinct matrix, its bits a weight, and its count."""
        if not self._read or self._read[0][0] is not shape.blocks:
            pairs = Counter(
                (linear, self.bits(index, linear))
                for index, block in enumerate(shape.blocks)
                for linear in block.linears
            )
            rows = [(linear, bits, times) for (linear, bits), times in pairs.items()]
            self._read[:] = [(shape.blocks, rows)]
        return self._read[0][1]

    def weights(self, shape: ModelShape) -> dict[MatrixFormat, int]:
        """The weights of the blocks in each format, the most first; without those in 16-bit."""
        counts: dict[MatrixFormat, int] = {}
        for index, block in enumerate(shape.blocks):
            for linear in block.linears:
                if form := self.format_of(index, linear):
                    counts[form] = counts.get(form, 0) + linear.weights
        return {form: counts[form] for form in sorted(counts, key=lambda form: -counts[form])}

    def only(self, shape: ModelShape, form: MatrixFormat) -> ModelShape:
        """`shape` with all matrices of other formats marked as unquantized, as kernels of `form`
        see it."""
        blocks: dict[tuple[BlockShape, tuple[bool, ...]], BlockShape] = {}
        result: list[BlockShape] = []
        for index, block in enumerate(shape.blocks):
            taken = tuple(self.format_of(index, linear) == form for linear in block.linears)
            if (block, taken) not in blocks:
                pairs = zip(block.linears, taken, strict=True)
                linears = tuple(n if takes else replace(n, unquantized=True) for n, takes in pairs)
                blocks[block, taken] = replace(block, linears=linears)
            result.append(blocks[block, taken])
        return replace(shape, blocks=tuple(result))
