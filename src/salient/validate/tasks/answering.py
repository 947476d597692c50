"""An engine answers examples: choices by their likelihood, everything else in writing.

A choice is the one with the largest log-probability, summed over its tokens and not divided by its
length: `acc` in EleutherAI's lm-evaluation-harness, not `acc_norm`. Choices of the bundled sets are
words, numbers and sentences that differ in one word; there the probability is what the model says,
and a division only favours long names. The 16-bit demo model is right more often without it (77 %
against 69 % of `knowledge`, 95 % against 89 % of `language`, as often in `code` and `reasoning`).

A written answer is greedy. It is the first line that holds more than white space.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from salient.core.errors import CalibrationError, RequestError
from salient.runtime.engine import Engine
from salient.runtime.loglikelihood import ChoiceRequest, Continuations, encode, encode_choices
from salient.runtime.sampling_params import SamplingParams
from salient.runtime.token_sequence import TokenSequence, raise_failed

from .comparison import TaskOutcome
from .scoring import choose, score
from .task_sets import Example

LONGEST_ANSWER = 2000  # characters that are kept


@dataclass(frozen=True)
class TaskQuestion:
    """An example as tokens: its prompt's, and those of each choice; no choices: it is written."""

    example: Example
    asked: ChoiceRequest

    def needs(self, max_new_tokens: int) -> int:
        """Positions that the prompt and its answer take."""
        longest = max(map(len, self.asked.continuations), default=max_new_tokens)
        return len(self.asked.context) + longest


@dataclass(frozen=True)
class ModelAnswer:
    """What a model said, and the tokens that went through it for that.

    answers: what was written, the text of the choice, or what else was asked for; plain JSON
    """

    answers: list[object]
    prompt_tokens: int
    new_tokens: int


def question(example: Example, tokenizer: Any) -> TaskQuestion:
    """`example` as tokens. Raises CalibrationError where its words have none.

    Spaces at a prompt's end belong to the next token.
    """
    try:
        if example.choices:
            asked = encode_choices(tokenizer, example.context, example.continuations)
            return TaskQuestion(example, asked)
    except RequestError as error:
        raise CalibrationError(f"{example.id}: {error}") from None
    ids = encode(tokenizer, example.prompt.rstrip(" \t"))
    if not ids:
        raise CalibrationError(f"{example.id}: the prompt has no tokens. Give at least one word.")
    return TaskQuestion(example, ChoiceRequest(ids, []))


def answer(engine: Engine, questions: Sequence[TaskQuestion], max_new_tokens: int) -> ModelAnswer:
    """The answers to some questions, computed together.

    Raises ModelError where the model gives no numbers, RequestError where it has no room.
    """
    choosing = [q for q in questions if q.example.choices]
    continuations = Continuations(engine)
    found = continuations.ask([q.asked for q in choosing])
    chosen = iter([_chosen(q.example, each) for q, each in zip(choosing, found, strict=True)])
    prompts = [q.asked.context for q in questions if not q.example.choices]
    written = write(
        engine, prompts, SamplingParams(max_new_tokens), lambda text: "\n" in text.lstrip()
    )
    lines = iter([first_line(each.text) for each in written])
    return ModelAnswer(
        [next(chosen if q.example.choices else lines) for q in questions],
        continuations.computed + sum(len(each.prompt) - each.reused for each in written),
        sum(len(each.tokens) for each in written),
    )


def outcome(example: Example, said: str) -> TaskOutcome:
    """What a model answered, scored. Raises CalibrationError for a pattern that takes too long."""
    if example.answer is not None:
        return TaskOutcome(said, said == example.choices[example.answer])
    return TaskOutcome(said, score(example, said))


def first_line(text: str) -> str:
    """The first line that is not blank, LONGEST_ANSWER characters at most."""
    return text.lstrip().partition("\n")[0].rstrip()[:LONGEST_ANSWER]


def write(
    engine: Engine,
    prompts: Sequence[list[int]],
    sampling: SamplingParams,
    done: Callable[[str], bool],
) -> list[TokenSequence]:
    """What the model writes after each prompt, computed together, until `done` of the text.

    Prompts that begin alike follow each other, so that they share what they begin with.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    answers = {number: engine.submit(prompts[number], sampling) for number in order}
    while engine.busy:
        for piece in engine.step():
            if not piece.finished and done(piece.sequence.text):
                engine.cancel(piece.sequence)
    raise_failed(answers.values())
    return [answers[number] for number in range(len(prompts))]


def _chosen(example: Example, likelihoods: Sequence[Any]) -> str:
    lengths = [len(choice.encode()) for choice in example.choices]
    logprobs = [likelihood.logprob for likelihood in likelihoods]
    return example.choices[choose(logprobs, lengths, normalized=False)]
