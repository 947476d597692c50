"""What is asked of `salient serve --engine vllm`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class VllmRequest:
    """The words of the command line.

    checkpoint: a folder; max_context: tokens of a sequence; max_concurrency: sequences together
    tp: GPUs that the model is cut over; dtype: of the activations, "auto" leaves it to the plan
    vllm_python: a Python that has vLLM; vllm_args: for vLLM, they win over ours
    """

    checkpoint: str
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    max_context: int | None = None
    max_concurrency: int | None = None
    tp: int = 1
    dtype: str = "auto"
    served_name: str | None = None
    vllm_python: str | None = None
    vllm_args: tuple[str, ...] = ()
