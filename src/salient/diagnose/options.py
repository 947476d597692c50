"""Options of the verb `doctor`."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from salient.core.options import TENSOR_PARALLEL, OptionSpec, StrPath
from salient.core.progress import Progress, silent

from .finding import Finding


@dataclass(frozen=True)
class DoctorOptions:
    """What to examine; None is skipped.

    on_finding: gets each finding of a followed log when it first appears
    """

    target: Annotated[
        StrPath | None, OptionSpec("A checkpoint folder, or its config.json.", positional=True)
    ] = None
    _: KW_ONLY
    log: Annotated[StrPath | None, OptionSpec("A log of vLLM or SGLang; - for stdin.")] = None
    config: Annotated[
        StrPath | None, OptionSpec("Serving settings: YAML, a command line, Python or JSON.")
    ] = None
    gpu: Annotated[str | None, OptionSpec("The device that serves the model.")] = None
    tensor_parallel_size: Annotated[int | None, TENSOR_PARALLEL] = None
    engine_version: Annotated[
        str | None, OptionSpec("vLLM's version. Default: the version in the log.")
    ] = None
    env: Annotated[bool, OptionSpec("Examine this machine too.")] = False
    security: Annotated[bool, OptionSpec("Show the hints on security too.")] = False
    follow: Annotated[bool, OptionSpec("Follow the log as it grows, until Ctrl-C.")] = False
    progress: Progress = silent
    on_finding: Callable[[Finding], None] | None = None
