"""Options of the verb `load-test`."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from salient.core.options import OptionSpec
from salient.core.progress import Progress, silent


@dataclass(frozen=True)
class LoadTestOptions:
    """The server and the requests."""

    url: Annotated[
        str, OptionSpec("The server, for example http://localhost:8000.", positional=True)
    ]
    _: KW_ONLY
    model: Annotated[
        str | None, OptionSpec("The served name. Default: the first that the server lists.")
    ] = None
    concurrency: Annotated[
        int | Sequence[int],
        OptionSpec("Requests at once; one step for each number: 1,4,8.", separator=","),
    ] = (1, 4, 8)
    rate: Annotated[
        float | None, OptionSpec("Requests per second at random times, instead of --concurrency.")
    ] = None
    requests: Annotated[int, OptionSpec("Requests per step.")] = 64
    prompt_tokens: Annotated[int, OptionSpec("Tokens per prompt, approximately.")] = 256
    max_new_tokens: Annotated[int, OptionSpec("Tokens per answer.")] = 128
    chat: Annotated[bool, OptionSpec("Send chat requests.")] = False
    timeout: Annotated[float, OptionSpec("Seconds for a whole request.")] = 300.0
    seed: Annotated[int, OptionSpec("Seed of prompts and arrival times.")] = 0
    tool: Annotated[
        str,
        OptionSpec(
            "salient, vllm (`vllm bench serve`), or guidellm: read its results file, whose path "
            "replaces the server."
        ),
    ] = "salient"
    tokenizer: Annotated[str, OptionSpec("For vllm: the model's folder or Hub id.")] = ""
    progress: Progress = silent
