"""Options of the verbs that run checkpoints. Imports no torch."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Annotated

from salient.core.options import (
    ACTIVATION_DTYPE,
    CONTEXT_LENGTH,
    DEVICE,
    TRUST_REMOTE_CODE,
    OptionSpec,
    Strings,
    StrPath,
)
from salient.core.progress import Progress, silent

CHECKPOINT = OptionSpec(
    "A checkpoint, 4-bit or 16-bit: folder, Hub id, 'smollm2-135m'.", positional=True
)
MAX_NEW_TOKENS = OptionSpec("Maximum tokens of an answer.")
TEMPERATURE = OptionSpec("0 takes the likeliest token; higher values vary more.")
TOP_P = OptionSpec("Sample from the likeliest tokens up to this total probability.")
TOP_K = OptionSpec("Sample from the k likeliest tokens; 0: all.")
MIN_P = OptionSpec("Drop tokens below this share of the likeliest token's probability.")
REPETITION_PENALTY = OptionSpec("Above 1: repeat less.")
PRESENCE_PENALTY = OptionSpec("Above 0: avoid tokens that the answer already contains; -2 to 2.")
FREQUENCY_PENALTY = OptionSpec(
    "Above 0: avoid tokens by how often the answer contains them; -2 to 2."
)
SEED = OptionSpec("The same seed gives the same text.")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run a checkpoint.

    dtype: of the activations   kv_dtype: of keys and values; auto: 16-bit
    compile: auto, on, off   kernel: auto, or a name
    """

    device: Annotated[str, DEVICE] = "auto"
    dtype: Annotated[str, ACTIVATION_DTYPE] = "auto"
    kv_dtype: Annotated[
        str, OptionSpec("Type of keys and values: auto (16-bit), float32, bfloat16, float16.")
    ] = "auto"
    fuse: Annotated[bool, OptionSpec("Run fused blocks where they are proven equal.")] = True
    compile: Annotated[
        str, OptionSpec("torch.compile the decoding step: auto (on a GPU), on, off.")
    ] = "auto"
    kernel: Annotated[str, OptionSpec("auto, or a name: triton, cpu, torch-int4, dense.")] = "auto"
    context_length: Annotated[int | None, CONTEXT_LENGTH] = None

    def engine_options(self, slots: int) -> "EngineOptions":
        """These options, for `slots` sequences at once."""
        shared = {field.name: getattr(self, field.name) for field in fields(RunOptions)}
        return EngineOptions(**shared, slots=slots)


@dataclass(frozen=True, kw_only=True)
class EngineOptions(RunOptions):
    """How to load an engine. slots: sequences at once"""

    slots: int = 8


@dataclass(frozen=True)
class LoadEngineOptions(EngineOptions):
    """The checkpoint and how to load it."""

    checkpoint: StrPath


@dataclass(frozen=True)
class GenerateOptions(RunOptions):
    """The checkpoint, the prompts and how to sample.

    on_text: gets the number of a prompt and the next piece of its answer
    """

    checkpoint: Annotated[StrPath, CHECKPOINT]
    prompt: Annotated[Strings, OptionSpec("Prompt; may be repeated; -: from stdin.", alias="-p")]
    _: KW_ONLY
    max_new_tokens: Annotated[int, MAX_NEW_TOKENS] = 256
    temperature: Annotated[float, TEMPERATURE] = 0.0
    top_p: Annotated[float, TOP_P] = 1.0
    top_k: Annotated[int, TOP_K] = 0
    min_p: Annotated[float, MIN_P] = 0.0
    repetition_penalty: Annotated[float, REPETITION_PENALTY] = 1.0
    presence_penalty: Annotated[float, PRESENCE_PENALTY] = 0.0
    frequency_penalty: Annotated[float, FREQUENCY_PENALTY] = 0.0
    seed: Annotated[int | None, SEED] = None
    stop: Annotated[Strings, OptionSpec("End the answer before this text; may be repeated.")] = ()
    logprobs: Annotated[
        int | None, OptionSpec("Log-probabilities per token: 0 (the chosen token's) to 20.")
    ] = None
    chat: Annotated[bool, OptionSpec("Apply the chat template to each prompt.")] = False
    trust_remote_code: Annotated[bool, TRUST_REMOTE_CODE] = False
    on_text: Callable[[int, str], None] | None = None


@dataclass(frozen=True)
class ChatOptions(RunOptions):
    """The checkpoint and how to sample; None: the model's own default."""

    checkpoint: Annotated[StrPath, CHECKPOINT]
    _: KW_ONLY
    system: Annotated[str | None, OptionSpec("System prompt.")] = None
    max_new_tokens: Annotated[int | None, MAX_NEW_TOKENS] = None
    temperature: Annotated[float | None, TEMPERATURE] = None
    top_p: Annotated[float | None, TOP_P] = None
    top_k: Annotated[int | None, TOP_K] = None
    min_p: Annotated[float | None, MIN_P] = None
    repetition_penalty: Annotated[float | None, REPETITION_PENALTY] = None
    presence_penalty: Annotated[float | None, PRESENCE_PENALTY] = None
    frequency_penalty: Annotated[float | None, FREQUENCY_PENALTY] = None
    seed: Annotated[int | None, SEED] = None
    trust_remote_code: Annotated[bool, TRUST_REMOTE_CODE] = False


@dataclass(frozen=True)
class BenchOptions:
    """The checkpoint, the workloads and the kernels."""

    checkpoint: Annotated[StrPath, CHECKPOINT]
    _: KW_ONLY
    reference: Annotated[
        StrPath | None, OptionSpec("A 16-bit model to time too, as Transformers runs it.")
    ] = None
    concurrency: Annotated[
        int | Sequence[int],
        OptionSpec("Sequences at once; one row for each number.", separator=",", minimum=1),
    ] = (1, 4, 8, 16, 32)
    prompt_tokens: Annotated[int, OptionSpec("Tokens per prompt.", minimum=1)] = 128
    max_new_tokens: Annotated[int, OptionSpec("Tokens per answer.", minimum=2)] = 64
    kernels: Annotated[
        Strings, OptionSpec("auto, all, or names: cpu,torch-int4,dense.", separator=",")
    ] = "auto"
    plot: Annotated[StrPath | None, OptionSpec("Draw the results: FILE.png, .svg, .pdf.")] = None
    device: Annotated[str, DEVICE] = "auto"
    progress: Progress = silent


@dataclass(frozen=True)
class InspectOptions:
    """The model to inspect."""

    model: Annotated[
        StrPath,
        OptionSpec(
            "A checkpoint or a 16-bit model: folder, Hub id, 'smollm2-135m'.", positional=True
        ),
    ]
    _: KW_ONLY
    runtime: Annotated[
        bool, OptionSpec("Show how it runs here: kernels, fused blocks, and reasons.")
    ] = False
    trust_remote_code: Annotated[bool, TRUST_REMOTE_CODE] = False
    progress: Progress = silent
