"""The checkpoint as its files are: the first row of every plan of a quantized model."""

from dataclasses import dataclass, replace

from salient.shapes.model_shape import ModelShape

from .declared_quantization import DeclaredQuantization, declared_quantization
from .matrix_formats import MatrixFormat
from .vllm.types import WeightPacking
from .weight_formats import AS_STORED, FORMATS, WeightFormat

STORED = "stored"  # the row's name
SOURCE_NEEDED = "needs the 16-bit model"
_VLLM = ("vllm", "transformers")
# Engines that read a checkpoint, by its method, or by the format of its matrices.
_ENGINES = {
    "awq": (*_VLLM, "salient"),
    "compressed-tensors": _VLLM,
    "mxfp4": (*_VLLM, "llama.cpp"),  # gpt-oss: llama.cpp's converter keeps its MXFP4
    "mlx": ("mlx",),
    "gguf": ("llama.cpp", "vllm"),
    "modelopt": ("vllm",),
    "modelopt_fp4": ("vllm",),
    "modelopt_mxfp8": ("vllm",),
    "exl2": ("exllamav2",),
    "exl3": ("exllamav3",),
    **dict.fromkeys(
        ("awq_gemv", "hqq", "aqlm", "bitnet", "eetq", "higgs", "quanto", "spqr", "vptq", "quip"),
        ("transformers",),
    ),
}
_OURS = (32, 64, 128)  # groups of 4-bit compressed-tensors that Salient's own engine reads
_LOSS = "that of the checkpoint: see its card"
_NO_TUNING = "no: keep the 16-bit model"
_TUNING = {
    **dict.fromkeys(("awq", "compressed-tensors", "gptq"), "LoRA adapters through PEFT"),
    "bitsandbytes": "QLoRA: made for it",
}


@dataclass(frozen=True)
class StoredFormat:
    """What the files of a quantized checkpoint are.

    method: of most of its matrices, by plan's name; title: "FP8 in blocks of 128 x 128"
    form: the row, named "stored"
    packing: what kernels see of most matrices, None where that is not known, and `reason` why
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
    declared = _declared(shape.quantization)
    return _stored(shape, declared) if declared else None


def plan_formats(shape: ModelShape) -> tuple[WeightFormat, ...]:
    """Every format to plan: the stored one first, then those that the 16-bit model can take."""
    stored = stored_format(shape)
    if stored is None:
        first = replace(FORMATS["fp16"], ready=True)
        return (first, *(form for form in FORMATS.values() if form.name != first.name))
    same = {stored.title} | {form.title for form in FORMATS.values() if _equal(form, stored)}
    return (stored.form, *(form for form in FORMATS.values() if form.title not in same))


def _equal(form: WeightFormat, stored: StoredFormat) -> bool:
    """Whether a format of the table is what is stored already."""
    packing = stored.packing
    if packing is None or form.method != packing.method or packing.bits != 4:
        return False
    return not packing.grouped or form.group == packing.group


_read: list[tuple[dict[str, object], DeclaredQuantization | None]] = []


def _declared(settings: dict[str, object]) -> DeclaredQuantization | None:
    """The rules of the same settings, read once: a plan asks hundreds of times."""
    for known, declared in _read:
        if known is settings:
            return declared
    declared = declared_quantization({"quantization_config": settings})
    _read[:] = [*_read[-7:], (settings, declared)]
    return declared


def _stored(shape: ModelShape, declared: DeclaredQuantization) -> StoredFormat:
    forms = tuple(declared.rules.weights(shape)) if declared.rules else ()
    main = forms[0] if forms else None
    whole = declared.rules.title if declared.rules else ""
    title = whole or " + ".join(form.title for form in forms) or declared.method or "unknown"
    form = WeightFormat(
        name=STORED,
        title=f"{title}{AS_STORED}",
        method=main.method if main else declared.method,
        group=max(0, main.group) if main and main.packing.grouped else 0,
        engines=_engines(declared, main),
        bits=main.bits if main else lambda _: None,
        loss=_LOSS,
        penalty=0.0,
        tuning=_TUNING.get(main.method if main else "", _NO_TUNING),
        ready=True,
        rules=declared.rules,
        unknown="" if declared.rules else declared.reason,
    )
    return StoredFormat(form.method, title, form, main.packing if main else None, declared.reason)


def _engines(declared: DeclaredQuantization, main: MatrixFormat | None) -> tuple[str, ...]:
    packing = main.packing if main else None
    if packing and packing.method == "compressed-tensors" and packing.bits == 4:
        return (*_VLLM, "salient") if packing.group in _OURS else _VLLM
    methods = (declared.method, main.method if main else "")
    return next((_ENGINES[method] for method in methods[::-1] if method in _ENGINES), _VLLM)
