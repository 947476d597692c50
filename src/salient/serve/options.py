"""Options of the verb `serve`. Imports no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from salient.core.options import (
    ACTIVATION_DTYPE,
    CONTEXT_LENGTH,
    DEVICE,
    TENSOR_PARALLEL,
    OptionSpec,
    Strings,
    StrPath,
)
from salient.core.progress import Progress, silent
from salient.runtime.options import CHECKPOINT


@dataclass(frozen=True)
class ServerEvent:
    """A message of the server: `lines` for people, `data` for programs."""

    lines: list[str]
    data: Mapping[str, object]


@dataclass(frozen=True)
class ServeOptions:
    """The checkpoint, the engine and the address.

    on_event: gets the messages of the server
    """

    checkpoint: Annotated[StrPath, CHECKPOINT]
    vllm_args: Annotated[
        Sequence[str], OptionSpec("After --: arguments for vLLM, unchanged.", positional=True)
    ] = ()
    _: KW_ONLY
    config: Annotated[
        StrPath | None,
        OptionSpec("The salient.toml that has the deployment. Default: that of this folder."),
    ] = None
    engine: Annotated[str, OptionSpec("embedded, vllm, or auto: vLLM if installed.")] = "auto"
    host: Annotated[str, OptionSpec("Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, OptionSpec("Port to listen on; 0 takes a free one.", minimum=0, maximum=65535)
    ] = 8000
    served_model_name: Annotated[
        str | None, OptionSpec("The model's name in requests. Default: the folder's name.")
    ] = None
    api_key: Annotated[
        str | None,
        OptionSpec("Key that clients must send; safer in the environment.", env="SALIENT_API_KEY"),
    ] = None
    context_length: Annotated[int | None, CONTEXT_LENGTH] = None
    concurrency: Annotated[
        int | None, OptionSpec("Sequences at once. Default: as many as memory holds.", minimum=1)
    ] = None
    max_waiting: Annotated[
        int, OptionSpec("Requests that may wait before more are refused (429).")
    ] = 256
    reference: Annotated[
        StrPath | None, OptionSpec("The 16-bit model to compare with in the explorer.")
    ] = None
    device: Annotated[str, DEVICE] = "auto"
    dtype: Annotated[str, ACTIVATION_DTYPE] = "auto"
    tensor_parallel_size: Annotated[int, TENSOR_PARALLEL] = 1
    vllm_python: Annotated[
        str | None, OptionSpec("The Python of an environment that has vLLM.")
    ] = None
    print_command: Annotated[bool, OptionSpec("Print vLLM's command and exit.")] = False
    allow_origin: Annotated[
        Strings, OptionSpec("Allow requests from pages of this origin (CORS); may be repeated.")
    ] = ()
    max_connections: Annotated[
        int,
        OptionSpec("Open connections; more get 503. Fewer where descriptors lack.", minimum=1),
    ] = 1024
    forwarded_allow_ips: Annotated[
        Strings, OptionSpec("Believe X-Forwarded-* headers of this proxy; may be repeated.")
    ] = ()
    deadline: Annotated[
        int, OptionSpec("Seconds that running requests have after Ctrl-C.", minimum=0)
    ] = 30
    progress: Progress = silent
    on_event: Callable[[ServerEvent], None] | None = None

    def emit(self, event: ServerEvent) -> None:
        if self.on_event:
            self.on_event(event)
