"""The verb `generate`: continue prompts, and time it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from salient.core.options import strings
from salient.core.records import to_json
from salient.core.report import Report, Table, mebibytes
from salient.core.system import resident_memory

from .load_engine import LoadedEngine, load
from .options import GenerateOptions
from .sampling_params import SampledToken, sampling_of
from .sequence import TokenSequence, raise_failed
from .tokenization import chat_ids, prompt_ids

MAX_TOGETHER = 32  # prompts computed at once; more wait for a free slot


@dataclass(frozen=True)
class GeneratedAnswer:
    """The answer to one prompt. logprobs: of each token, where the options ask for them"""

    prompt: str
    text: str
    tokens: list[int]
    prompt_tokens: int
    reused_prompt_tokens: int
    new_tokens: int
    finished: str
    seconds_to_first_token: float
    tokens_a_second: float | None
    logprobs: list[SampledToken]


@dataclass(frozen=True)
class GenerateRun:
    """The answers, and how the checkpoint ran. kernels: name -> number of linears"""

    checkpoint: str
    answers: list[GeneratedAnswer]
    load_seconds: float
    resident_bytes: int
    runs_as: str
    kernels: dict[str, int]


def generate_texts(options: GenerateOptions) -> tuple[list[TokenSequence], Report]:
    """The answers to the prompts, computed together, and their report.

    Raises RequestError, ModelError, CheckpointError.
    """
    prompts = strings(options.prompt)
    sampling = replace(sampling_of(options), stop=strings(options.stop))
    sampling.check()
    start = time.perf_counter()
    slots = min(max(len(prompts), 1), MAX_TOGETHER)
    opened = load(str(options.checkpoint), options.engine_options(slots))
    loaded = time.perf_counter() - start
    tokenizer = opened.model.tokenizer
    ids = [
        chat_ids(tokenizer, [{"role": "user", "content": text}])
        if options.chat
        else prompt_ids(tokenizer, text)
        for text in prompts
    ]
    answers = [opened.engine.submit(each, sampling) for each in ids]
    numbers = {id(answer): number for number, answer in enumerate(answers)}
    while opened.engine.busy:
        for piece in opened.engine.step():
            if options.on_text:
                options.on_text(numbers[id(piece.sequence)], piece.text)
    raise_failed(answers)
    return answers, _report(opened, answers, prompts, loaded)


def _report(
    opened: LoadedEngine, answers: list[TokenSequence], prompts: Sequence[str], loaded: float
) -> Report:
    run = GenerateRun(
        checkpoint=str(opened.model.checkpoint.folder),
        answers=list(map(_answer, prompts, answers)),
        load_seconds=loaded,
        resident_bytes=resident_memory(),
        runs_as=opened.engine.runner.how,
        kernels={name: count for (name, _), count in opened.model.kernels.items()},
    )
    columns = ("answer", "prompt tokens", "new tokens", "end", "first token", "tokens a second")
    rows = [
        (
            str(number),
            str(each.prompt_tokens),
            str(each.new_tokens),
            each.finished,
            f"{each.seconds_to_first_token * 1e3:.0f} ms",
            "" if each.tokens_a_second is None else f"{each.tokens_a_second:.1f}",
        )
        for number, each in enumerate(run.answers, 1)
    ]
    resident = mebibytes(run.resident_bytes)
    lines = [f"Loaded in {loaded:.1f} s, {resident} resident; runs as {run.runs_as}."]
    data = to_json(run)
    for answer, sequence in zip(data["answers"], answers, strict=True):
        if sequence.sampling.logprobs is None:
            del answer["logprobs"]
    return Report(data, [Table("Generated", columns, rows)], lines)


def _answer(prompt: str, answer: TokenSequence) -> GeneratedAnswer:
    return GeneratedAnswer(
        prompt=prompt,
        text=answer.text,
        tokens=answer.tokens,
        prompt_tokens=len(answer.prompt),
        reused_prompt_tokens=answer.reused,
        new_tokens=len(answer.tokens),
        finished=answer.finished,
        seconds_to_first_token=answer.seconds_to_first,
        tokens_a_second=answer.tokens_a_second,
        logprobs=answer.picked,
    )
