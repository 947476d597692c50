"""Options of the verb `plan`."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from salient.core.options import TENSOR_PARALLEL, OptionSpec, Strings, StrPath

MAX_TOKENS = 10_000_000
MAX_SEQUENCES = 100_000


@dataclass(frozen=True)
class PlanOptions:
    """The model, the devices, the workload and the requirements."""

    model: Annotated[
        StrPath | None,
        OptionSpec("A folder, a config.json, a Hub id, or 'smollm2-135m'.", positional=True),
    ] = None
    _: KW_ONLY
    config: Annotated[
        StrPath | None, OptionSpec("Plan every deployment of this salient.toml instead.")
    ] = None
    gpu: Annotated[
        Strings,
        OptionSpec("Devices to compare, separated by commas: 'RTX 4090,H100'.", separator=","),
    ] = ()
    vram: Annotated[float | None, OptionSpec("GiB of a device that is not in the catalogue.")] = (
        None
    )
    engine: Annotated[str, OptionSpec("vllm, transformers, llama.cpp or salient.")] = "vllm"
    context_length: Annotated[
        int | None,
        OptionSpec(
            "Tokens of a prompt and its answer. Default: 8192, or the model's maximum.",
            minimum=1,
            maximum=MAX_TOKENS,
        ),
    ] = None
    concurrency: Annotated[
        int, OptionSpec("Sequences at once.", minimum=1, maximum=MAX_SEQUENCES)
    ] = 1
    tensor_parallel_size: Annotated[int, TENSOR_PARALLEL] = 1
    kv_dtype: Annotated[
        str, OptionSpec("Type of the KV cache, in the engine's spelling: auto, fp8, q8_0, ...")
    ] = "auto"
    require: Annotated[
        str, OptionSpec("Requirements: ttft=1s,decode=30,throughput=500,memory=20GB,tune.")
    ] = ""
    prompt_tokens: Annotated[
        int,
        OptionSpec(
            "Tokens of a prompt, for the time to first token.", minimum=1, maximum=MAX_TOKENS
        ),
    ] = 1024
    format: Annotated[
        Strings,
        OptionSpec(
            "Formats to compare, separated by commas: 'fp8,awq'. Default: all.", separator=","
        ),
    ] = ()
    details: Annotated[
        bool, OptionSpec("Show the memory item by item, the assumptions and refused formats.")
    ] = False
    engine_version: Annotated[str, OptionSpec("vLLM's version.")] = "0.32"
    adr: Annotated[StrPath | None, OptionSpec("Write a decision record to this Markdown file.")] = (
        None
    )
