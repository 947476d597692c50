"""Verbs that measure what a checkpoint lost, and how fast a server is."""

from collections.abc import Sequence

from salient.core.progress import Progress, silent
from salient.core.report import Report


def evaluate(
    checkpoint: str,
    *,
    reference: str,
    text: Sequence[str] = (),
    windows: int | None = None,
    window_length: int = 512,
    stride: int | None = None,
    protocol: str | None = None,
    tasks: Sequence[str] = (),
    contexts: str = "off",
    attribute: bool = False,
    report: str | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Report:
    """What `checkpoint` lost against `reference`: KL, top-1 and perplexity on texts.

    `tasks`, `contexts` and `attribute` ask for parts of a validation in their place, or with `text`
    beside them. `windows` is 16 of each text, with a named `protocol` as many as it holds. `report`
    is a folder to write pages to.

    Raises SalientError for what cannot be measured.
    """
    from salient.validate.request import asked_alone
    from salient.validate.validate import ValidateOptions, run

    asked = asked_alone(text, tasks, contexts, attribute, windows, window_length, stride, protocol)
    return run(ValidateOptions(checkpoint, reference, asked, None, device, report), progress)


def validate(
    checkpoint: str,
    *,
    reference: str,
    policy: str = "balanced",
    text: Sequence[str] = (),
    tasks: Sequence[str] = (),
    contexts: str = "auto",
    load_test: str = "embedded",
    attribute: bool = False,
    windows: int | None = None,
    window_length: int = 512,
    stride: int | None = None,
    protocol: str | None = None,
    report: str | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: Progress = silent,
) -> Report:
    """Whether to ship `checkpoint`: four stages measured against `reference`, one verdict.

    `policy` is a shipped name (strict, balanced, lenient) or a TOML file. `tasks` are .jsonl files,
    bundled sets or 'lm-eval:NAME' (none named: all bundled sets); `contexts` are lengths with
    commas, or 'auto'; `load_test` is a server's address or 'embedded'. 'off' leaves a stage out,
    and the verdict says so. With `attribute` the report says where the damage sits. With `resume`
    what an earlier run measured is taken from the cache.

    The report passed if every rule holds; its data's ["verdict"]["exit_code"] is 0, 1 or 2.

    Raises SalientError for what cannot be asked; what fails on the way is an undecided rule.
    """
    from salient.validate.request import asked_for
    from salient.validate.validate import ValidateOptions, run

    asked = asked_for(
        text,
        tasks,
        contexts,
        load_test,
        attribute,
        windows,
        window_length,
        stride,
        protocol,
    )
    request = ValidateOptions(checkpoint, reference, asked, policy, device, report, resume)
    return run(request, progress)


def load_test(
    url: str,
    *,
    model: str | None = None,
    concurrency: str = "1,4,8",
    rate: float | None = None,
    requests: int = 64,
    prompt_tokens: int = 256,
    new_tokens: int = 128,
    chat: bool = False,
    timeout: float = 300.0,
    seed: int = 0,
    tool: str = "salient",
    tokenizer: str = "",
    progress: Progress = silent,
) -> Report:
    """Latencies and throughput of an OpenAI-compatible server, step by step.

    `model` is the served name; None takes the first that the server lists. `concurrency` is a list
    with commas; `rate` (requests per second) replaces it. A key is read from OPENAI_API_KEY. `tool`
    is salient (the built-in client), vllm (`vllm bench serve`, which may need the model's
    `tokenizer`, a folder or Hub id) or guidellm, which reads the results file of a guidellm run:
    `url` is then its path. The report passed if no request failed.

    Raises RequestError for invalid options and a server that does not answer; requests that fail
    are counted.
    """
    import os

    from salient.loadtest.plan import LoadPlan, LoadTarget, parse_steps
    from salient.loadtest.report import report_load

    api = "chat" if chat else "completions"
    target = LoadTarget(url, model or "", api, os.environ.get("OPENAI_API_KEY"), timeout)
    plan = LoadPlan(
        parse_steps(concurrency, rate),
        requests,
        prompt_tokens=prompt_tokens,
        output_tokens=new_tokens,
        seed=seed,
    )
    return report_load(tool, target, plan, progress, tokenizer)
