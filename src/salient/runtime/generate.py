"""The verb `generate`: continue prompts, and time it."""

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from salient.core.options import strings
from salient.core.report import Report, Table, mebibytes
from salient.core.system import resident_memory

from .load_engine import LoadedEngine, load
from .options import EngineOptions, GenerateOptions, RunOptions
from .sampling_params import SamplingParams
from .token_sequence import TokenSequence, raise_failed
from .tokenization import chat_ids, prompt_ids

MAX_TOGETHER = 32  # prompts computed at once; more wait for a free slot


def generate_texts(options: GenerateOptions) -> tuple[list[TokenSequence], Report]:
    """The answers to the prompts, computed together, and their report.

    Raises RequestError, ModelError, CheckpointError.
    """
    prompts = strings(options.prompt)
    sampling = _sampling(options)
    sampling.check()
    start = time.perf_counter()
    opened = load(str(options.checkpoint), _engine_options(options, len(prompts)))
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


def _sampling(options: GenerateOptions) -> SamplingParams:
    return SamplingParams(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        seed=options.seed,
        stop=strings(options.stop),
        logprobs=options.logprobs,
    )


def _engine_options(options: RunOptions, prompts: int) -> EngineOptions:
    shared = {field.name: getattr(options, field.name) for field in fields(RunOptions)}
    return EngineOptions(**shared, slots=min(max(prompts, 1), MAX_TOGETHER))


def _report(
    opened: LoadedEngine, answers: list[TokenSequence], prompts: Sequence[str], loaded: float
) -> Report:
    texts = [
        {"prompt": prompt, **to_dict(answer)}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    data: dict[str, Any] = {
        "checkpoint": str(opened.model.checkpoint.folder),
        "answers": texts,
        "load_seconds": loaded,
        "resident_bytes": resident_memory(),
        "runs_as": opened.engine.runner.how,
        "kernels": {name: count for (name, _), count in opened.model.kernels.items()},
    }
    columns = ("answer", "prompt tokens", "new tokens", "end", "first token", "tokens a second")
    rows = [
        (
            str(number + 1),
            str(each["prompt_tokens"]),
            str(each["new_tokens"]),
            each["finished"],
            f"{each['seconds_to_first_token'] * 1e3:.0f} ms",
            "" if each["tokens_a_second"] is None else f"{each['tokens_a_second']:.1f}",
        )
        for number, each in enumerate(texts)
    ]
    lines = [
        f"Loaded in {loaded:.1f} s, {mebibytes(data['resident_bytes'])} resident; runs as "
        f"{data['runs_as']}."
    ]
    return Report(data, [Table("Generated", columns, rows)], lines)


def to_dict(answer: TokenSequence) -> dict[str, Any]:
    """One answer as plain data."""
    data: dict[str, Any] = {
        "text": answer.text,
        "tokens": answer.tokens,
        "prompt_tokens": len(answer.prompt),
        "reused_prompt_tokens": answer.reused,
        "new_tokens": len(answer.tokens),
        "finished": answer.finished,
        "seconds_to_first_token": answer.seconds_to_first,
        "tokens_a_second": answer.tokens_a_second,
    }
    if answer.sampling.logprobs is not None:
        data["logprobs"] = [
            {"token": p.token, "logprob": p.logprob, "top": [list(pair) for pair in p.top]}
            for p in answer.picked
        ]
    return data
