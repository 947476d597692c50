"""The checkpoint as its files are: the first row of every plan of a quantized model."""

from dataclasses import dataclass, replace

from salient.shapes.model_shape import ModelShape

from .declared_quantization import DeclaredQuantization, declared_quantization
from .matrix_formats import MatrixFormat
from .quantization_rules import QuantizationRules
from .vllm.types import WeightPacking
from .weight_formats import FORMATS, WeightFormat

STORED = "stored"  # the row's name
SOURCE_NEEDED = "needs the 16-bit model"
_ENGINES = {
    "awq": ("vllm", "transformers", "salient"),
    "compressed-tensors": ("vllm", "transformers", "salient"),
    "gguf": ("llama.cpp",),
}


@dataclass(frozen=True)
class StoredFormat:
    """What the files of a quantized checkpoint are.

    method: of most of its matrices, by plan's name; title: "FP8 in blocks of 128 x 128"
    form: the row, named "stored"
    packing: what kernels see, None where they are not known, and `reason` why
    """

    method: str
    title: str
    form: WeightFormat
    packing: WeightPacking | None
    reason: str = ""


def stored_format(shape: ModelShape) -> StoredFormat | None:
    """The format of a quantized checkpoint, None for a 16-bit one."""
    if not shape.quantization:
        return None
    declared = declared_quantization({"quantization_config": shape.quantization})
    return _stored(declared) if declared else None


def plan_formats(shape: ModelShape) -> tuple[WeightFormat, ...]:
    """Every format to plan: the stored one first, then those that the 16-bit model can take."""
    stored = stored_format(shape)
    if stored is None:
        return tuple(replace(form, ready=form.method == "none") for form in FORMATS.values())
    return (stored.form, *FORMATS.values())


def _stored(declared: DeclaredQuantization) -> StoredFormat:
    packing = declared.packing
    default = MatrixFormat(packing or WeightPacking("none"), declared.method, *_bits(packing))
    form = WeightFormat(
        name=STORED,
        title=f"{declared.method} as stored",
        method=default.method,
        group=max(0, default.group) if default.packing.grouped else 0,
        engines=_ENGINES.get(default.method, ("vllm", "transformers")),
        bits=default.bits,
        loss="that of the checkpoint",
        penalty=0.0,
        tuning="no: keep the 16-bit model",
        ready=True,
        rules=QuantizationRules(default),
    )
    return StoredFormat(default.method, form.title, form, packing, declared.reason)


def _bits(packing: WeightPacking | None) -> tuple[float, float]:
    """Bits of a code and of a group's scale."""
    if packing is None:
        return 16.0, 0.0
    if packing.grouped:
        return float(packing.bits), 16.0 + packing.bits * packing.zeros
    return {"fp8": (8.0, 16.0), "bitsandbytes": (4.0, 0.0)}.get(packing.method, (16.0, 0.0))
