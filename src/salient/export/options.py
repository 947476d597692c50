"""Options of the verb `export`. Imports no torch."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

from salient.core.options import OptionSpec, StrPath
from salient.core.progress import Progress, silent

Others = Literal["template", "f16", "f32", "q8_0"]


@dataclass(frozen=True)
class ExportOptions:
    """The checkpoint, and the file of another engine to write."""

    checkpoint: Annotated[
        StrPath, OptionSpec("The folder of a checkpoint, or a Hub id.", positional=True)
    ]
    output: Annotated[
        StrPath | None,
        OptionSpec("File to write. Default: named after the checkpoint.", alias="-o"),
    ] = None
    _: KW_ONLY
    to: Annotated[
        Literal["gguf", "onnx"],
        OptionSpec("gguf: for llama.cpp, Ollama, LM Studio. onnx: how to build it."),
    ] = "gguf"
    template: Annotated[
        StrPath | None,
        OptionSpec(
            "A GGUF file of the same model, of any type: its metadata and names are used. Or the "
            "folder of the 16-bit model, which llama.cpp's convert_hf_to_gguf.py on PATH converts."
        ),
    ] = None
    others: Annotated[
        Others,
        OptionSpec(
            "Type of unquantized matrices. template: embedding and head as the template has them, "
            "but at least Q8_0; the others in the checkpoint's own 16-bit type."
        ),
    ] = "template"
    progress: Progress = silent
