"""What is asked of `salient serve`. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServeOptions:
    """What to serve, and where; what is None is chosen.

    checkpoint: a folder, Hub id or demo name   reference: the 16-bit model to show beside it
    served_name: the name that clients use   max_waiting: requests in line before more are refused
    origins: of pages that browsers may let ask   deadline: seconds that running requests have after
        a signal   tp, vllm_python, vllm_args, print_command: of vLLM alone
    """

    checkpoint: str
    engine: str = "auto"
    host: str = "127.0.0.1"
    port: int = 8000
    served_name: str | None = None
    api_key: str | None = None
    max_context: int | None = None
    max_concurrency: int | None = None
    max_waiting: int = 256
    reference: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    tp: int = 1
    vllm_python: str | None = None
    print_command: bool = False
    origins: tuple[str, ...] = ()
    deadline: int = 30
    vllm_args: tuple[str, ...] = ()
