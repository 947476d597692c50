"""Options of the verb `compare`. Imports no torch."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from salient.core.options import DEVICE, TRUST_REMOTE_CODE, OptionSpec, Strings, StrPath
from salient.core.progress import Progress, silent


@dataclass(frozen=True)
class CompareOptions:
    """The model, the contestants, and the text."""

    model: Annotated[
        StrPath,
        OptionSpec("The 16-bit model: a folder, a Hub id, or 'smollm2-135m'.", positional=True),
    ]
    _: KW_ONLY
    contestants: Annotated[
        Strings,
        OptionSpec(
            "awq, rtn, gptq, nf4, q4_0, q4_1, and paths of checkpoints in any layout.",
            separator=",",
        ),
    ] = ("awq", "rtn", "gptq", "nf4", "q4_0", "q4_1")
    text: Annotated[
        Strings, OptionSpec("A .txt or .jsonl file, or a Hub data set; may be repeated.")
    ] = ()
    panel: Annotated[
        StrPath | None, OptionSpec("A file of salient panel make, in place of --text.")
    ] = None
    positions: Annotated[
        int, OptionSpec("Positions to compare, at most.", minimum=64, quantity="tokens")
    ] = 8192
    sequence_length: Annotated[int, OptionSpec("Tokens of a window.", minimum=2)] = 512
    scheme: Annotated[str, OptionSpec("Of awq, rtn and gptq: w4-g128, w4-g64, ..., auto.")] = "auto"
    effort: Annotated[str, OptionSpec("Of awq: fast, balanced or best.")] = "fast"
    samples: Annotated[
        int, OptionSpec("Calibration samples of awq and gptq, of 512 tokens.", minimum=2)
    ] = 16
    report: Annotated[StrPath | None, OptionSpec("Folder for compare.html and compare.json.")] = (
        None
    )
    fresh: Annotated[bool, OptionSpec("Make and measure again what an earlier run has.")] = False
    device: Annotated[str, DEVICE] = "auto"
    trust_remote_code: Annotated[bool, TRUST_REMOTE_CODE] = False
    progress: Progress = silent
