"""Options of the verb `convert`. Imports no torch."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from salient.core.options import OptionSpec, StrPath
from salient.core.progress import Progress, silent


@dataclass(frozen=True)
class ConvertOptions:
    """The checkpoint, and the format to write it in."""

    checkpoint: Annotated[
        StrPath, OptionSpec("The folder of a quantized checkpoint, or a Hub id.", positional=True)
    ]
    output: Annotated[
        StrPath | None,
        OptionSpec("Folder to write. Default: named after the checkpoint and format.", alias="-o"),
    ] = None
    _: KW_ONLY
    format: Annotated[str, OptionSpec("awq, compressed-tensors or gptq.")] = "compressed-tensors"
    progress: Progress = silent
