"""Options of the verb `plan`."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Annotated

from salient.core.options import TENSOR_PARALLEL, OptionSpec, Strings, StrPath

MAX_TOKENS = 2**24
MAX_SEQUENCES = 100_000
DEVICES_USED = replace(
    TENSOR_PARALLEL, help="Tensor-parallel size. Default: the number of devices in --gpu, else 1."
)


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
        OptionSpec("Devices to compare, separated by commas: 'RTX 4090,2xH100'.", separator=","),
    ] = ()
    vram: Annotated[
        float | None,
        OptionSpec(
            "GiB of a device that is not in the catalogue: 24, 24GB, 24576MiB.", quantity="memory"
        ),
    ] = None
    engine: Annotated[str, OptionSpec("vllm, sglang, transformers, llama.cpp, mlx or salient.")] = (
        "vllm"
    )
    context_length: Annotated[
        int | None,
        OptionSpec(
            "Tokens of a prompt and its answer: 128k. Default: 8192, or the model's maximum.",
            alias="--context",
            minimum=1,
            maximum=MAX_TOKENS,
            quantity="tokens",
        ),
    ] = None
    concurrency: Annotated[
        int, OptionSpec("Sequences at once.", minimum=1, maximum=MAX_SEQUENCES)
    ] = 1
    tensor_parallel_size: Annotated[int | None, DEVICES_USED] = None
    kv_dtype: Annotated[
        str, OptionSpec("Type of the KV cache, in the engine's spelling: auto, fp8, q8_0, ...")
    ] = "auto"
    max_num_seqs: Annotated[
        int | None,
        OptionSpec("Sequences in vLLM's largest step.", minimum=1, maximum=MAX_SEQUENCES),
    ] = None
    max_num_batched_tokens: Annotated[
        int | None, OptionSpec("Tokens in vLLM's largest step.", minimum=1, maximum=MAX_TOKENS)
    ] = None
    gpu_memory_utilization: Annotated[
        float | None,
        OptionSpec("Share of the memory that vLLM may take.", minimum=0.05, maximum=1),
    ] = None
    language_model_only: Annotated[
        bool, OptionSpec("vLLM without the towers of images and sound.")
    ] = False
    enforce_eager: Annotated[bool, OptionSpec("vLLM without CUDA graphs.")] = False
    require: Annotated[
        str, OptionSpec("Requirements: ttft=1s,decode=30,throughput=500,memory=20GB,tune.")
    ] = ""
    prompt_tokens: Annotated[
        int,
        OptionSpec(
            "Tokens of a prompt, for the time to first token.",
            minimum=1,
            maximum=MAX_TOKENS,
            quantity="tokens",
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
