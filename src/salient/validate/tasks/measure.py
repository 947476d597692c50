"""The tasks stage: both models answer the same examples.

The reference answers first, then the checkpoint; one of them is in memory at a time. Answers are
cached as they come, so that a run that was stopped resumes, and the reference's serve the next
checkpoint.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from salient.core.errors import CalibrationError, ModelError, RequestError, ResourceError
from salient.core.progress import Progress
from salient.models.tokens import load_tokenizer
from salient.runtime.load_engine import LONGEST_DEFAULT
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import ModelPair
from salient.validate.policy.verdict import ALL as ALL_KINDS
from salient.validate.stage import UnmeasuredStage

from .answering import Examinee, TaskQuestion, answer_questions, encode_question, outcome
from .comparison import compare
from .lm_eval import PREFIX, AnsweredExample, answer_tasks, find_tasks
from .result import TaskResult
from .scoring import Example
from .task_sets import ALL, read_tasks

CHUNK = 32  # examples whose answers are cached together


@dataclass(frozen=True)
class TasksRequest:
    """The examples of the stage.

    sets: task sets as `read_tasks` takes them, or lm-eval:NAME,NAME for tasks of that library
    limit: at most so many of each kind, for a quick look; None: all
    max_new_tokens: of a written answer
    """

    sets: tuple[str, ...] = (ALL,)
    limit: int | None = None
    max_new_tokens: int = 96


@dataclass(frozen=True)
class TaskPlan:
    """A checked request.

    questions: the examples by the reference's tokenizer, and by the checkpoint's
    lm_eval: tasks of lm-eval, and the manager that has them loaded   context: positions needed
    """

    examples: list[Example]
    questions: list[list[TaskQuestion]]
    lm_eval: list[str]
    manager: Any
    context: int

    @property
    def notes(self) -> list[str]:
        differing = sum(a.tokens != b.tokens for a, b in zip(*self.questions, strict=True))
        if not differing:
            return []
        return [f"The two tokenizers differ on {differing} of {len(self.examples)} examples."]


def check_tasks(pair: ModelPair, request: TasksRequest) -> TaskPlan:
    """Check everything that can be checked before a model is opened.

    Raises SalientError for an invalid request, naming the example.
    """
    for number, what in ((request.limit, "examples"), (request.max_new_tokens, "new tokens")):
        if number is not None and number < 1:
            raise RequestError(f"{number} {what}. Give at least 1.")
    sets = list(dict.fromkeys(request.sets))
    tasks = [
        task.strip()
        for name in sets
        if name.startswith(PREFIX)
        for task in name.removeprefix(PREFIX).split(",")
    ]
    if not sets or not all(tasks):
        raise RequestError(f"No tasks. Give a task set, {ALL!r}, or {PREFIX}NAME.")
    examples = _examples([name for name in sets if not name.startswith(PREFIX)], request.limit)
    longest = pair.longest_context or LONGEST_DEFAULT
    tokenizers = [load_tokenizer(side.companions) for side in pair.sides]
    questions = [[encode_question(example, t) for example in examples] for t in tokenizers]
    needed = [_positions(q, request, longest) for side in questions for q in side]
    context = min(longest, LONGEST_DEFAULT) if tasks else 2
    manager = find_tasks(tasks) if tasks else None
    return TaskPlan(examples, questions, tasks, manager, max(context, *needed, 2))


def measure_tasks(
    pair: ModelPair, request: TasksRequest, cache: ValidationCache, progress: Progress
) -> TaskResult | UnmeasuredStage:
    """Let both models answer, and compare.

    Raises SalientError for an invalid request, CalibrationError for a pattern that takes too long.
    A model that has no room, or gives no numbers, is an unmeasured stage.
    """
    plan = check_tasks(pair, request)
    answered: list[list[AnsweredExample]] = []
    throughput, notes = {}, plan.notes
    for number, side in enumerate(pair.sides):
        examinee = Examinee(side, cache, pair.device, plan.context)
        total = len(plan.examples)
        step = progress.part(number, 1, 2, side.role)
        try:
            rows = list(_answers(examinee, plan.questions[number], request, step))
            if plan.lm_eval:
                show = partial(step, total, total)
                more, scoring = answer_tasks(
                    plan.manager, plan.lm_eval, examinee, request.limit, show
                )
                rows += more
                notes = [*plan.notes, *scoring]
        except (ResourceError, ModelError) as error:
            kinds = (*(example.kind for example in plan.examples), *plan.lm_eval)
            return UnmeasuredStage("tasks", str(error), kinds)
        finally:
            examinee.close()
        answered.append(rows)
        throughput["quantized" if number else "reference"] = examinee.throughput
    examples, others = ([example for example, _ in rows] for rows in answered)
    if [e.id for e in examples] != [e.id for e in others]:
        raise CalibrationError(
            "lm-eval gave the two models different examples. Leave tasks out that draw at random."
        )
    comparison = compare(examples, *([result for _, result in rows] for rows in answered))
    return TaskResult.of(request.sets, comparison, throughput, notes)


def _examples(names: Sequence[str], limit: int | None) -> list[Example]:
    """The examples of all sets, each once, `limit` of each kind. Raises CalibrationError."""
    counts: Counter[str] = Counter()
    examples = []
    for example in dict.fromkeys(e for name in names for e in read_tasks(name)):
        if example.kind == ALL_KINDS:
            raise CalibrationError(
                f"{example.id}: the kind {ALL_KINDS!r} is what all examples together are called. "
                "Give it another name."
            )
        counts[example.kind] += 1
        if limit is None or counts[example.kind] <= limit:
            examples.append(example)
    return examples


def _positions(question: TaskQuestion, request: TasksRequest, longest: int) -> int:
    """Positions that a question needs. Raises CalibrationError for more than the model has."""
    needed = question.positions(request.max_new_tokens)
    if needed > longest:
        prompt = len(question.tokens.context)
        raise CalibrationError(
            f"{question.example.id}: its prompt has {prompt} tokens, an answer up to "
            f"{needed - prompt}; the model has room for {longest}. Shorten the prompt, or leave "
            "the example out."
        )
    return needed


def _answers(
    examinee: Examinee,
    questions: Sequence[TaskQuestion],
    request: TasksRequest,
    progress: Progress,
) -> Iterator[AnsweredExample]:
    """Each example and a model's answer, in order; each chunk is cached."""
    done = 0
    for chunk in _chunks(questions):
        progress(done, len(questions), chunk[0].example.kind)
        answers = examinee.part(
            "tasks",
            [(q.tokens.context, q.tokens.continuations, q.example.choices) for q in chunk],
            lambda engine, chunk=chunk: answer_questions(engine, chunk, request.max_new_tokens),
            max_new_tokens=request.max_new_tokens,
        )
        for question, answer in zip(chunk, answers, strict=True):
            yield question.example, outcome(question.example, answer)
        done += len(chunk)


def _chunks(questions: Sequence[TaskQuestion]) -> Iterator[list[TaskQuestion]]:
    """Chunks of one set each, so that a set has the same ones alone and among others."""
    for _, group in groupby(questions, lambda q: q.example.id.rpartition(":")[0]):
        members = list(group)
        yield from (members[start : start + CHUNK] for start in range(0, len(members), CHUNK))
