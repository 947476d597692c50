"""Options of the verbs `receipt` and `panel`. Imports no torch."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from salient.core.options import DEVICE, TRUST_REMOTE_CODE, OptionSpec, Strings, StrPath
from salient.core.progress import Progress, silent

POSITIONS = OptionSpec(
    "Positions of the panel, at most; text of the model itself fills what the texts lack.",
    minimum=64,
    quantity="tokens",
)
LENGTH = OptionSpec("Tokens of a window.", minimum=2)


@dataclass(frozen=True)
class ReceiptOptions:
    """The two models, the panel, and where the receipt is written.

    checkpoint, reference: None with `verify` takes the receipt's
    """

    checkpoint: Annotated[
        StrPath | None, OptionSpec("The checkpoint, in any layout.", positional=True)
    ] = None
    _: KW_ONLY
    reference: Annotated[
        StrPath | None, OptionSpec("The 16-bit model: a folder, a Hub id, or 'smollm2-135m'.")
    ] = None
    adapter: Annotated[
        StrPath | None,
        OptionSpec("LoRA adapter folder that the checkpoint was made with: merged in --reference."),
    ] = None
    panel: Annotated[
        StrPath, OptionSpec("builtin, a file of salient panel make, or a text file.")
    ] = "builtin"
    positions: Annotated[int | None, POSITIONS] = None
    sequence_length: Annotated[int, LENGTH] = 512
    calibration: Annotated[
        StrPath | None,
        OptionSpec("The text that the checkpoint was calibrated on, where that is not known."),
    ] = None
    against: Annotated[
        StrPath | None,
        OptionSpec("Another checkpoint, or its receipt: a paired test of which is better."),
    ] = None
    verify: Annotated[StrPath | None, OptionSpec("A receipt to measure again and compare.")] = None
    output: Annotated[
        StrPath | None,
        OptionSpec("The receipt's file. Default: CHECKPOINT-receipt.json here.", alias="-o"),
    ] = None
    model_index: Annotated[
        StrPath | None, OptionSpec("Also write the figures as a model card's model-index (YAML).")
    ] = None
    llama_cpp: Annotated[
        StrPath | None, OptionSpec("Also write the figures as llama.cpp's --kl-divergence does.")
    ] = None
    fresh: Annotated[bool, OptionSpec("Stream the reference again, too.")] = False
    device: Annotated[str, DEVICE] = "auto"
    trust_remote_code: Annotated[bool, TRUST_REMOTE_CODE] = False
    progress: Progress = silent


@dataclass(frozen=True)
class PanelOptions:
    """What a panel is made of."""

    action: Annotated[str, OptionSpec("make.", positional=True)]
    model: Annotated[
        StrPath,
        OptionSpec("The 16-bit model whose tokenizer reads the text.", positional=True),
    ]
    _: KW_ONLY
    output: Annotated[StrPath, OptionSpec("File to write.", alias="-o")] = "panel.safetensors"
    text: Annotated[
        Strings,
        OptionSpec(
            "A .txt or .jsonl file (rows with a 'kind' are strata), or a Hub data set; may be "
            "repeated. Default: the built-in held-out text."
        ),
    ] = ()
    positions: Annotated[int | None, POSITIONS] = None
    sequence_length: Annotated[int, LENGTH] = 512
    own_text: Annotated[
        bool, OptionSpec("A stratum of text that the model generates, a fifth of the positions.")
    ] = True
    device: Annotated[str, DEVICE] = "auto"
    trust_remote_code: Annotated[bool, TRUST_REMOTE_CODE] = False
    progress: Progress = silent
