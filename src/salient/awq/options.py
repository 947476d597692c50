"""Options of the verb `quantize`. Imports no torch."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from salient.core.options import DEVICE, TRUST_REMOTE_CODE, OptionSpec, Strings, StrPath
from salient.core.progress import Progress, silent

from .effort import DEFAULT_EFFORT


@dataclass(frozen=True)
class QuantizeOptions:
    """The model, the checkpoint to write, and the calibration."""

    model: Annotated[
        StrPath,
        OptionSpec("A folder, a Hub id, or 'smollm2-135m' (the demo model).", positional=True),
    ]
    output: Annotated[
        StrPath | None,
        OptionSpec(
            "Folder to write. Default: named after the model, format and scheme.", alias="-o"
        ),
    ] = None
    _: KW_ONLY
    scheme: Annotated[
        str,
        OptionSpec(
            "w4-g128, w4-g64, w4-g32, each also with -sym; auto: the largest group that fits."
        ),
    ] = "w4-g128"
    bits_per_weight: Annotated[
        float | None,
        OptionSpec(
            "Mean bits of a quantized weight, scales included: each linear gets the format of "
            "--allow where the end loss gains most. For compressed-tensors.",
            minimum=1,
            maximum=16,
        ),
    ] = None
    allow: Annotated[
        str,
        OptionSpec(
            "Formats that --bits-per-weight may give: 4 bits in groups (g32, g64, g128), w8 (8 "
            "bits), 16bit."
        ),
    ] = "g32,g64,g128,w8,16bit"
    format: Annotated[str, OptionSpec("awq (AutoAWQ GEMM) or compressed-tensors.")] = "awq"
    calibration: Annotated[
        str,
        OptionSpec(
            "builtin, a file (.txt, .jsonl, .json, .csv, .parquet; also .gz), or a Hub data set "
            "(NAME or NAME:SPLIT)."
        ),
    ] = "builtin"
    calibration_mix: Annotated[
        float,
        OptionSpec(
            "Share of a file or data set in the calibration; the rest is the built-in corpus. 1: "
            "your text only.",
            minimum=0.01,
            maximum=1,
        ),
    ] = 0.5
    self_text: Annotated[
        bool,
        OptionSpec(
            "A quarter of the samples are a chat model's own answers to built-in requests. The "
            "whole model is in memory while they are sampled."
        ),
    ] = False
    samples: Annotated[int, OptionSpec("Calibration samples.", minimum=1)] = 256
    sequence_length: Annotated[int, OptionSpec("Tokens per sample.", minimum=1)] = 512
    effort: Annotated[
        str,
        OptionSpec(
            "fast; balanced: rounding that knows the end loss, by a backward pass; best: also "
            "learns each block's roundings."
        ),
    ] = DEFAULT_EFFORT
    skip: Annotated[
        Strings, OptionSpec("Name or glob of linears to leave unquantized; may be repeated.")
    ] = ()
    drop: Annotated[
        Strings,
        OptionSpec(
            "Name or glob of tensors that the model has no place for; mtp: the layers that "
            "predict further tokens. May be repeated."
        ),
    ] = ()
    device: Annotated[str, DEVICE] = "auto"
    dtype: Annotated[
        str, OptionSpec("16-bit type of the checkpoint: auto (the source's), float16, bfloat16.")
    ] = "auto"
    adapter: Annotated[
        StrPath | None, OptionSpec("LoRA adapter folder to merge before quantizing.")
    ] = None
    dequantize_source: Annotated[
        bool,
        OptionSpec(
            "Take a model that is quantized already (FP8, GPTQ, NF4, ...): its weights are "
            "dequantized block by block, and its error stays in them."
        ),
    ] = False
    trust_remote_code: Annotated[bool, TRUST_REMOTE_CODE] = False
    fresh: Annotated[bool, OptionSpec("Start over and replace an existing result.")] = False
    dry_run: Annotated[bool, OptionSpec("Check everything, estimate memory, write nothing.")] = (
        False
    )
    progress: Progress = silent
