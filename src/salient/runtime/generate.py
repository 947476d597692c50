"""The verb `generate`: texts that go on from prompts, and how fast."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from salient.core.report import Report, Table, mebibytes
from salient.core.system import resident_memory

from .load_engine import EngineOptions, LoadedEngine, load
from .sampling_params import SamplingParams
from .token_sequence import TokenSequence, raise_failed
from .tokenization import chat_ids, prompt_ids

Heard = Callable[[int, str], None]  # which prompt, and the next piece of its text


def generate_texts(
    checkpoint: str,
    prompts: Sequence[str],
    sampling: SamplingParams,
    options: EngineOptions,
    *,
    chat: bool,
    heard: Heard,
) -> Report:
    """Answers to `prompts`, together; `chat` puts each through the chat template.

    `heard` gets the text as it comes. Raises RequestError, ModelError, CheckpointError.
    """
    sampling.check()
    start = time.perf_counter()
    opened = load(checkpoint, options)
    loaded = time.perf_counter() - start
    tokenizer = opened.model.tokenizer
    ids = [
        chat_ids(tokenizer, [{"role": "user", "content": text}])
        if chat
        else prompt_ids(tokenizer, text)
        for text in prompts
    ]
    answers = [opened.engine.submit(each, sampling) for each in ids]
    numbers = {id(answer): number for number, answer in enumerate(answers)}
    while opened.engine.busy:
        for piece in opened.engine.step():
            heard(numbers[id(piece.sequence)], piece.text)
    raise_failed(answers)
    return _report(opened, answers, prompts, loaded)


def _report(
    opened: LoadedEngine, answers: list[TokenSequence], prompts: Sequence[str], loaded: float
) -> Report:
    texts = [
        {"prompt": prompt, **told(answer)} for prompt, answer in zip(prompts, answers, strict=True)
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


def told(answer: TokenSequence) -> dict[str, Any]:
    """What became of one answer, for programs."""
    told: dict[str, Any] = {
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
        told["logprobs"] = [
            {"token": p.token, "logprob": p.logprob, "top": [list(pair) for pair in p.top]}
            for p in answer.picked
        ]
    return told
