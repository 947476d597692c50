"""Bytes of a model's weights in each format, from the bits of each matrix.

Norms, biases, routers and towers stay in 16-bit; in all formats but GGUF also the embedding and the
head. Sizes are those of the files and, except for padding, of the memory.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from salient.core.scheme import Scheme
from salient.shapes.model_shape import LinearShape, ModelShape

from .gguf_types import ENDS, gguf_bits, more_bits
from .matrix_formats import MXFP4, NVFP4
from .quantization_rules import SIXTEEN, QuantizationRules

AS_STORED = " (as stored)"  # ends the title of the checkpoint's own row


@dataclass(frozen=True)
class WeightFormat:
    """A way to store weights.

    name: in JSON; title: in tables
    method: what engines call it (quant_method); group: weights that share a scale, 0 none
    engines: who runs it
    bits: bits a weight of one matrix, None where it stays in 16-bit
    gguf: the mixture's name where block types differ between tensors
    loss: of quality, with a published figure and its source
    penalty: doublings of speed that this loss is worth; a judgement, for the ranking
    tuning: whether and how the model can be fine-tuned later
    maker: what makes it, "" where Salient, llama.cpp or the engine itself does
    ready: whether the weights exist, so that nothing is to be made
    rules: of a stored checkpoint, which matrix is in which format
    unknown: why there are no rules of a stored checkpoint
    """

    name: str
    title: str
    method: str
    group: int
    engines: tuple[str, ...]
    bits: Callable[[LinearShape], float | None]
    loss: str
    penalty: float
    tuning: str
    gguf: str = ""
    maker: str = ""
    ready: bool = False
    rules: QuantizationRules | None = None
    unknown: str = ""


@dataclass(frozen=True)
class StoredWeights:
    """Bytes of a stored model.

    cut: bytes of what tensor parallelism cuts; each GPU holds the rest
    ahead: bytes of layers that predict further tokens, in the files but not loaded
    unfit: matrices that stay in 16-bit because the group does not divide their inputs
    """

    linears: int
    unquantized: int
    embedding: int
    head: int
    other: int
    towers: int
    cut: int = 0
    ahead: int = 0
    unfit: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return (
            self.linears + self.unquantized + self.embedding + self.head + self.other + self.towers
        )

    @property
    def files(self) -> int:
        """Bytes of the files."""
        return self.total + self.ahead


def _grouped(group: int) -> Callable[[LinearShape], float | None]:
    bits = Scheme(group).bits_per_weight
    return lambda linear: bits if linear.width % group == 0 else None


def _gptq(linear: LinearShape) -> float | None:
    """AutoGPTQ's tensors: codes, 16-bit scales, 4-bit zeros, and g_idx, an int32 an input."""
    if linear.width % 128:
        return None
    return Scheme(128).bits_per_weight + 32 / linear.out


def _nf4(linear: LinearShape) -> float:
    """bitsandbytes: 4 bits and a float32 absmax for 64 weights (QLoRA, arXiv 2305.14314, sec. 3),
    without double quantization, which neither Transformers nor vLLM enables by default."""
    return 4 + 32 / 64


def _fp8(linear: LinearShape) -> float:
    """One byte, and a 16-bit scale for each output (llm-compressor's FP8_DYNAMIC)."""
    return 8 + 16 / linear.width


def _mixed(linear: LinearShape) -> None:
    """GGUF's mixtures choose by tensor and block, in `gguf_bits`."""


_VLLM = ("vllm", "transformers")
_OURS = ("vllm", "transformers", "salient")
_LLAMA = ("llama.cpp", "vllm")
# Perplexities: WikiText-2, 2048 tokens, Llama-3-8B, 16-bit 6.14 (AWQ, arXiv 2306.00978, table 4);
# of GGUF: the list of llama-quantize (llama.cpp, tools/quantize), Llama-3-8B, its own protocol.
_AWQ_LOSS = "perplexity +0.40 of 6.14 (AWQ paper, Llama-3-8B)"
_LESS_LOSS = "perplexity below +0.40 of 6.14 (AWQ paper, Llama-3-8B, groups of 128)"
_LORA = "LoRA adapters through PEFT; the codes stay"
_NO = "no: keep the 16-bit model"


def _gguf(name: str, group: int, loss: str, penalty: float) -> WeightFormat:
    title = f"GGUF {name.upper()}"
    loss = f"perplexity {loss} (llama.cpp, Llama-3-8B)"
    return WeightFormat(name, title, "gguf", group, _LLAMA, _mixed, loss, penalty, _NO, name)


def _awq(name: str, title: str, method: str, group: int, penalty: float) -> WeightFormat:
    bits = _grouped(group)
    loss = _AWQ_LOSS if group >= 128 else _LESS_LOSS
    return WeightFormat(name, title, method, group, _OURS, bits, loss, penalty, _LORA)


_NF4_LOSS = "no calibration; between AWQ and plain rounding"
_NVFP4_LOSS = "accuracy within 1 % of FP8's (NVIDIA's card of DeepSeek-R1-0528-NVFP4)"
_MXFP4_LOSS = "rounded while it loads, without calibration; scales are powers of 2"
_GPTQ_LOSS = "perplexity +0.42 of 6.14 (reordered; AWQ paper, Llama-3-8B)"
_TABLE = (
    WeightFormat("fp16", "16-bit", "none", 0, (*_VLLM, "llama.cpp", "mlx"), lambda _: SIXTEEN,
                 "none", 0, "any"),
    WeightFormat("fp8", "FP8", "fp8", 0, _VLLM, _fp8, "near none", 0.05, _NO),
    _awq("awq-g32", "AWQ w4-g32", "awq", 32, 0.33),
    _awq("awq-g64", "AWQ w4-g64", "awq", 64, 0.34),
    _awq("awq-g128", "AWQ w4-g128", "awq", 128, 0.35),
    # as AWQ, which more engines read
    _awq("ct-g128", "compressed-tensors w4-g128", "compressed-tensors", 128, 0.36),
    WeightFormat("gptq-g128", "GPTQ w4-g128", "gptq", 128, _VLLM, _gptq, _GPTQ_LOSS, 0.45, _LORA,
                 maker="GPTQModel"),
    WeightFormat("nvfp4", "NVFP4", "nvfp4", 0, ("vllm",), NVFP4.bits, _NVFP4_LOSS, 0.38, _NO,
                 maker="llm-compressor (scheme NVFP4) or ModelOpt"),
    WeightFormat("mxfp4", "MXFP4", "mxfp4", 0, ("vllm",), MXFP4.bits, _MXFP4_LOSS, 0.6, _NO),
    WeightFormat("nf4", "bitsandbytes NF4", "bitsandbytes", 64, _VLLM, _nf4, _NF4_LOSS, 0.45,
                 "QLoRA: made for it"),
    _gguf("q4_0", 32, "+0.47", 0.60),
    _gguf("q4_k_m", 256, "+0.18", 0.30),
    _gguf("q5_k_m", 256, "+0.06", 0.15),
    _gguf("q8_0", 32, "+0.003", 0.02),
)  # fmt: skip
FORMATS = {row.name: row for row in _TABLE}


def stored_weights(shape: ModelShape, form: WeightFormat) -> StoredWeights:
    """Bytes of all of `shape`'s weights in `form`."""
    linears = unquantized = cut = 0.0
    biases = 0
    unfit: dict[str, None] = {}
    for linear, bits, times in matrices(shape, form):
        biases += linear.biases * times
        size = linear.weights * times * (SIXTEEN if bits is None else bits)
        if linear.unquantized or bits is None or (form.rules and bits == SIXTEEN):
            unquantized += size
        else:
            linears += size
        cut += 0 if linear.split == "none" else size
        if bits is None:
            unfit[f"{linear.name}: {linear.width} inputs"] = None
    embedding, head = end_bits(shape, form)
    other = sum(block.other for block in shape.blocks) + shape.other + biases
    ahead = form.rules.ahead_bits(shape) if form.rules else SIXTEEN
    stored = StoredWeights(
        round(linears / 8),
        round(unquantized / 8),
        round(embedding / 8),
        round(head / 8),
        other * (4 if form.gguf else 2),  # GGUF stores one-dimensional tensors in float32
        sum(shape.towers.values()) * 2,
        round((cut + embedding + head) / 8),
        round(shape.ahead * ahead / 8),
        tuple(unfit),
    )
    return _measured(stored, shape.stored_bytes) if form.rules and shape.stored_bytes else stored


def _measured(stored: StoredWeights, size: int) -> StoredWeights:
    """`stored` with the bytes of the files' tensors; the matrices have the difference."""
    total = round(size * stored.total / max(1, stored.files))
    linears = max(0, stored.linears + total - stored.total)
    change = linears - stored.linears
    cut = max(0, stored.cut + change)
    return replace(stored, linears=linears, cut=cut, ahead=max(0, size - stored.total - change))


def matrices(shape: ModelShape, form: WeightFormat) -> list[tuple[LinearShape, float | None, int]]:
    """Every distinct matrix, its bits a weight (None: it must stay in 16-bit), and its count."""
    layers = len(shape.blocks)
    if form.rules:
        return [*form.rules.matrices(shape)]
    kinds = Counter(
        (block, bool(form.gguf) and more_bits(index, layers))
        for index, block in enumerate(shape.blocks)
    )
    experts = max((n.copies for block, _ in kinds for n in block.linears), default=1)
    return [
        (linear, _bits(linear, form, experts, more=more), times)
        for (block, more), times in kinds.items()
        for linear in block.linears
    ]


def _bits(linear: LinearShape, form: WeightFormat, experts: int, *, more: bool) -> float | None:
    if linear.unquantized:
        return SIXTEEN
    if form.gguf:
        return gguf_bits(form.gguf, linear, experts, more=more)
    return form.bits(linear)


def end_bits(shape: ModelShape, form: WeightFormat) -> tuple[float, float]:
    """Bits of the embedding and of an untied head."""
    if form.rules:
        embedding, head = form.rules.ends(shape)
        return shape.embedding * (head if shape.tied else embedding), shape.head * head
    if not form.gguf:
        return shape.embedding * SIXTEEN, shape.head * SIXTEEN
    embedding, head = ENDS[form.gguf]
    return shape.embedding * (head if shape.tied else embedding), shape.head * head


def padding(shape: ModelShape, form: WeightFormat, tp: int) -> int:
    """Bytes that MXFP4 experts take on one of `tp` GPUs in addition to those of the files: vLLM's
    Marlin rounds the inner width up to 128 and the outer to 256 (fused_moe/oracle/mxfp4.py)."""
    if form.method != "mxfp4":
        return 0
    extra = 0.0
    for linear, bits, times in matrices(shape, form):
        if linear.part != "experts" or bits is None or bits == SIXTEEN:
            continue
        inner, outer = (linear.width, linear.out)[:: 1 if linear.split == "in" else -1]
        padded = _rounded(inner / tp, 128) * _rounded(outer, 256)
        extra += max(0, padded - inner / tp * outer) * linear.copies * times * bits
    return round(extra / 8)


def _rounded(size: float, step: int) -> int:
    return ceil(size / step) * step


def bytes_read(shape: ModelShape, form: WeightFormat, rows: int = 1) -> float:
    """Bytes of weights that one step reads for `rows` tokens of different sequences.

    Of E experts of which each token takes k, evenly: E (1 - (1 - k/E)^rows) are read. The embedding
    is looked up, not read; a tied one is read as the head.
    """
    read = 0.0
    for linear, bits, times in matrices(shape, form):
        share = 1 - (1 - linear.active / linear.copies) ** rows
        read += linear.weights * times * share * (SIXTEEN if bits is None else bits)
    embedding, head = end_bits(shape, form)
    return (read + (embedding if shape.tied else head)) / 8
