"""The tasks of a validation: both models answer the same examples.

The reference answers first, then the checkpoint; one of them is in memory at a time. Answers are
kept as they come, so that a run that was stopped goes on, and the reference's serve the next
checkpoint.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from salient.awq.calibration import load_tokenizer
from salient.core.errors import CalibrationError, ModelError, RequestError, ResourceError
from salient.core.progress import Progress
from salient.runtime.load_engine import LONGEST_DEFAULT
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import ModelPair
from salient.validate.policy.verdict import ALL as EVERYTHING
from salient.validate.stage import UnmeasuredStage

from .answering import TaskQuestion, answer, outcome, question
from .comparison import compare
from .examinee import Examinee
from .lm_eval_tasks import PREFIX, Sat, find_tasks, sit
from .result import TaskResult
from .task_sets import ALL, Example, read_tasks

CHUNK = 32  # examples whose answers are kept together


@dataclass(frozen=True)
class TasksRequest:
    """What to ask.

    sets: task sets as `read_tasks` knows them, or lm-eval:NAME,NAME for tasks of that library
    most: of each kind the first so many, for a quick look; None: all
    max_new_tokens: of a written answer
    """

    sets: tuple[str, ...] = (ALL,)
    most: int | None = None
    max_new_tokens: int = 96


@dataclass(frozen=True)
class TaskPlan:
    """What a request comes to.

    questions: the examples as the reference's tokenizer and the checkpoint's have them
    harness: tasks of lm-eval, and the manager that knows them   context: positions needed
    """

    examples: list[Example]
    questions: list[list[TaskQuestion]]
    harness: list[str]
    manager: Any
    context: int

    @property
    def notes(self) -> list[str]:
        apart = sum(a.asked != b.asked for a, b in zip(*self.questions, strict=True))
        if not apart:
            return []
        return [f"The two tokenizers differ on {apart} of {len(self.examples)} examples."]


def check_tasks(pair: ModelPair, request: TasksRequest) -> TaskPlan:
    """Everything that can be found out before a model is opened.

    Raises SalientError for what cannot be asked, naming the example.
    """
    for number, what in ((request.most, "examples"), (request.max_new_tokens, "new tokens")):
        if number is not None and number < 1:
            raise RequestError(f"{number} {what}. Give at least 1.")
    names = [name for name in dict.fromkeys(request.sets) if not name.startswith(PREFIX)]
    harness = [
        task.strip()
        for name in dict.fromkeys(request.sets)
        if name.startswith(PREFIX)
        for task in name.removeprefix(PREFIX).split(",")
    ]
    if not request.sets or not all(harness):
        raise RequestError(f"No tasks. Give a task set, {ALL!r}, or {PREFIX}NAME.")
    examples = _first_of_each_kind(names, request.most)
    longest = pair.longest_context or LONGEST_DEFAULT
    tokenizers = [load_tokenizer(side.source.folder) for side in pair.sides]
    questions = [[question(each, t) for each in examples] for t in tokenizers]
    needed = [_checked(q, request, longest) for asked in questions for q in asked]
    context = min(longest, LONGEST_DEFAULT) if harness else 2
    manager = find_tasks(harness) if harness else None
    return TaskPlan(examples, questions, harness, manager, max(context, *needed, 2))


def measure_tasks(
    pair: ModelPair, request: TasksRequest, store: ValidationCache, progress: Progress
) -> TaskResult | UnmeasuredStage:
    """Ask both models, compare their answers.

    Raises SalientError for what cannot be asked, CalibrationError for a pattern that takes too
    long. A model that has no room, or gives no numbers, is told in place of the figures.
    """
    plan = check_tasks(pair, request)
    answered: list[list[Sat]] = []
    throughput, notes = {}, plan.notes
    for number, side in enumerate(pair.sides):
        examinee = Examinee(side, store, pair.device, plan.context)
        total = len(plan.examples)
        step = progress.part(number, 1, 2, side.role)
        try:
            sats = list(_sit(examinee, plan.questions[number], request, step))
            if plan.harness:
                show = partial(step, total, total)
                more, words = sit(plan.manager, plan.harness, examinee, request.most, show)
                sats += more
                notes = [*plan.notes, *words]
        except (ResourceError, ModelError) as error:
            kinds = (*(example.kind for example in plan.examples), *plan.harness)
            return UnmeasuredStage("tasks", str(error), kinds)
        finally:
            examinee.close()
        answered.append(sats)
        throughput["quantized" if number else "reference"] = examinee.throughput
    examples, other = ([example for example, _ in sats] for sats in answered)
    if [e.id for e in examples] != [e.id for e in other]:
        raise CalibrationError(
            "lm-eval asked the two models other examples. Leave tasks out that draw at random."
        )
    comparison = compare(examples, *([said for _, said in sats] for sats in answered))
    return TaskResult.of(request.sets, comparison, throughput, notes)


def _first_of_each_kind(names: Sequence[str], most: int | None) -> list[Example]:
    """The examples of all sets, each once. Raises CalibrationError."""
    found = dict.fromkeys(e for name in names for e in read_tasks(name).examples)
    counts: dict[str, int] = {}
    kept = []
    for example in found:
        if example.kind == EVERYTHING:
            raise CalibrationError(
                f"{example.id}: the kind {EVERYTHING!r} is what all examples together are called. "
                "Give it another name."
            )
        counts[example.kind] = counts.get(example.kind, 0) + 1
        if most is None or counts[example.kind] <= most:
            kept.append(example)
    return kept


def _checked(asked: TaskQuestion, request: TasksRequest, longest: int) -> int:
    """Positions that a question needs. Raises CalibrationError for more than the model has."""
    needed = asked.needs(request.max_new_tokens)
    if needed > longest:
        prompt = len(asked.asked.context)
        raise CalibrationError(
            f"{asked.example.id}: its prompt has {prompt} tokens, an answer up to "
            f"{needed - prompt}; the model has room for {longest}. Shorten the prompt, or leave "
            "the example out."
        )
    return needed


def _sit(
    examinee: Examinee,
    questions: Sequence[TaskQuestion],
    request: TasksRequest,
    progress: Progress,
) -> Iterator[Sat]:
    """Each example and what a model answered, in order; chunk by chunk, each of them kept."""
    done = 0
    for chunk in _chunks(questions):
        progress(done, len(questions), chunk[0].example.kind)
        settings = {"questions": _digest(chunk), "max_new_tokens": request.max_new_tokens}
        answers = examinee.part(
            "tasks",
            settings,
            lambda engine, chunk=chunk: answer(engine, chunk, request.max_new_tokens),
        )
        for each, said in zip(chunk, answers, strict=True):
            yield each.example, outcome(each.example, said)
        done += len(chunk)


def _chunks(questions: Sequence[TaskQuestion]) -> Iterator[list[TaskQuestion]]:
    """Chunks of one set each, so that a set alone has the same ones as among others."""
    for _, group in groupby(questions, lambda q: q.example.id.rpartition(":")[0]):
        alike = list(group)
        yield from (alike[start : start + CHUNK] for start in range(0, len(alike), CHUNK))


def _digest(questions: Sequence[TaskQuestion]) -> str:
    asked = [(q.asked.context, q.asked.continuations, q.example.choices) for q in questions]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
