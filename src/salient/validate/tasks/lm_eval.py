"""Tasks of EleutherAI's lm-evaluation-harness, answered by our engine.

They are named like `lm-eval:hellaswag,arc_easy`. The library chooses the examples, writes the
prompts and decides what is right. It needs the extra `eval`, and the network for tasks that are not
files.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any

from salient.core.errors import CalibrationError, MissingExtra
from salient.runtime.engine import Engine
from salient.runtime.loglikelihood import ChoiceRequest, Continuations, encode
from salient.runtime.sampling_params import SamplingParams

from .answering import LONGEST_ANSWER, Examinee, ModelAnswer, write_answers
from .comparison import TaskOutcome
from .scoring import Example, choose

PREFIX = "lm-eval:"
# The metric that decides whether an example is right: the first of these that a task has, else any
# of zeros and ones. As the library's users report them.
DECIDING = ("acc_norm", "acc", "exact_match")
FIELDS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
CHUNK = 64  # contexts, or prompts, that are cached together
NEW_TOKENS = 256  # of a written answer where the task has no bound: the library's own default
BOUNDS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

AnsweredExample = tuple[Example, TaskOutcome]


def find_tasks(names: Sequence[str]) -> Any:
    """The library's task manager, with all of `names` loaded: tasks, groups, or their .yaml files.

    Raises MissingExtra, CalibrationError.
    """
    manager = _manager()
    for name in names:
        if name not in manager.task_index and not Path(name).is_file():
            near = get_close_matches(name[:80], list(manager.task_index), 3)
            meant = f"Did you mean {', '.join(near)}? " if near else ""
            raise CalibrationError(
                f"lm-eval has no task {name[:80]!r}. {meant}Give the name of a task or a group, or "
                "the .yaml file of one."
            )
    try:
        tasks = manager.load(list(names))["tasks"]
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise CalibrationError(
            f"lm-eval cannot load {', '.join(names)[:200]} ({reason}). Data sets come over the "
            "network, once."
        ) from error
    unsafe = [name for name, task in tasks.items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe:
        raise CalibrationError(
            f"The task {unsafe[0]} runs code that the model writes. Run it with lm-eval itself, in "
            "a machine of its own."
        )
    return manager


def answer_tasks(
    manager: Any,
    names: Sequence[str],
    examinee: Examinee,
    limit: int | None,
    show: Callable[[str], None],
) -> tuple[list[AnsweredExample], list[str]]:
    """The answered examples of some tasks, at most `limit` of each, and how they were scored.

    show: receives the progress as text

    Raises CalibrationError for a task that does not decide of each example whether it is right.
    """
    template = _library("lm_eval.api.model").TemplateLM
    model = type("SalientModel", (EngineModel, template), {})(examinee, show)
    results = _library("lm_eval.evaluator").simple_evaluate(
        model=model, tasks=list(names), task_manager=manager, limit=limit, bootstrap_iters=0
    )
    tasks = [read_samples(task, samples) for task, samples in results["samples"].items()]
    return [answered for each, _ in tasks for answered in each], [note for _, note in tasks]


def read_samples(task: str, samples: Sequence[dict[str, Any]]) -> tuple[list[AnsweredExample], str]:
    """The samples that the library has logged for a task, of its first filter only; and how."""
    name = samples[0].get("filter")
    first = [s for s in samples if s.get("filter") == name]
    metric = _deciding(task, first)
    note = f"{task}: answers are right by lm-eval's {metric}, filter {name}."
    return [_answered(task, sample, metric) for sample in first], note


def _deciding(task: str, samples: Sequence[dict[str, Any]]) -> str:
    """The metric that decides whether an example is right. Raises CalibrationError without one."""
    names = [name for name in samples[0] if name not in FIELDS and not name.endswith("_hash")]
    for name in (*(n for n in DECIDING if n in names), *names):
        if all(isinstance(s[name], Real) and s[name] in (0, 1) for s in samples):
            return name
    raise CalibrationError(
        f"The lm-eval task {task} does not say of each example whether it is right (it has "
        f"{', '.join(names)[:200] or 'no metrics'}). Take one with {', '.join(DECIDING)}."
    )


def _answered(task: str, sample: dict[str, Any], metric: str) -> AnsweredExample:
    arguments, responses = [list(each) for each in sample["arguments"]], sample["filtered_resps"]
    choices: tuple[str, ...] = ()
    if len(arguments) > 1:
        # The contexts may be the choices.
        index = 1 if len({each[1] for each in arguments}) > 1 else 0
        choices = tuple(str(each[index]).strip() for each in arguments)
        logprobs = [each[0] for each in responses]
        lengths = [len(choice) for choice in choices]
        answer = choices[choose(logprobs, lengths, normalized=metric == "acc_norm")]
    elif isinstance(responses[0], (list, tuple)):
        answer = arguments[0][1] if responses[0][1] else "something else"
    else:
        answer = str(responses[0])
    target = sample["target"]
    if choices and isinstance(target, int) and 0 <= target < len(choices):
        target = choices[target]
    prompt = str(arguments[0][0])
    example = Example(
        prompt, task, (str(target),), "exact", choices, None, f"{task}:{sample['doc_id']}"
    )
    return example, TaskOutcome(answer[:LONGEST_ANSWER], bool(sample[metric] == 1))  # NumPy's, else


@cache
def _manager() -> Any:
    """It reads the names of ten thousand tasks: seconds."""
    return _library("lm_eval.tasks").TaskManager()


def _library(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{PREFIX} tasks need the extra 'eval' ({error}): pip install 'salient-awq[eval]'"
        ) from None


@dataclass(frozen=True)
class WritingRequest:
    """A prompt's tokens, the texts that end its answer, and its most new tokens."""

    ids: list[int]
    until: list[str]
    bound: int


class EngineModel:
    """Our engine as the library's model (lm_eval/api/model.py): a mixin for its TemplateLM, which
    turns texts into tokens.

    show: receives the progress as text
    """

    backend = "causal"
    max_gen_toks = NEW_TOKENS

    def __init__(self, examinee: Examinee, show: Callable[[str], None]):
        super().__init__()
        self.examinee, self.show = examinee, show
        self.tokenizer, self.max_length = examinee.tokenizer, examinee.context

    @property
    def tokenizer_name(self) -> str:
        return self.examinee.side.name

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token of an empty context."""
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos

    def tok_encode(
        self, string: str, *, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """The tokens of a text, by default with the special ones that the tokenizer adds."""
        if add_special_tokens is None:
            return encode(self.tokenizer, string)
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """As the library has it, without its progress bar."""
        library: Any = super()
        return library.loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Log-probability, and whether greedy decoding agrees, of each request: a text, tokens of
        the context, tokens of the continuation.

        Where both are too long the context loses its beginning.
        """
        pairs = [self._fitting(context, tokens) for _, context, tokens in requests]
        contexts: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
        for context, tokens in pairs:
            contexts.setdefault(context, {})[tokens] = None
        choices = [
            ChoiceRequest(list(c), [list(tokens) for tokens in each])
            for c, each in contexts.items()
        ]
        results = {}
        for choice, likelihoods in self._answers("likelihoods", choices, _measure):
            context = tuple(choice.context)
            for tokens, likelihood in zip(choice.continuations, likelihoods, strict=True):
                results[context, tuple(tokens)] = likelihood["logprob"], likelihood["greedy"]
        return [results[pair] for pair in pairs]

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """The log-probability of whole texts, in windows where they are long."""
        windows = import_module("lm_eval.utils")
        parts, counts = [], []
        for (text,) in (request.args for request in requests):
            rolling = windows.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            disjoint = [(None, *windows.make_disjoint_window(window)) for window in rolling]
            parts += disjoint
            counts.append(len(disjoint))
        results = iter(self._loglikelihood_tokens(parts))
        return [sum(next(results)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Greedy answers, each cut before the first text that ends it."""
        prompts = [self._writing(*request.args) for request in requests]
        return [text for _, text in self._answers("texts", prompts, _write)]

    def _fitting(self, context: Sequence[int], tokens: Sequence[int]) -> tuple[Any, Any]:
        room = self.max_length + 1 - len(tokens)
        if not tokens or room < 1:
            raise CalibrationError(
                f"lm-eval requests a continuation of {len(tokens)} tokens; there is room for 1 to "
                f"{self.max_length}. Leave that task out."
            )
        return tuple(context[-room:]), tuple(tokens)

    def _writing(self, context: str, options: dict[str, Any]) -> WritingRequest:
        if options.get("do_sample") and options.get("temperature", 1.0) > 0:
            raise CalibrationError(
                "lm-eval requests answers drawn at random, which differ from run to run. Leave "
                "that task out."
            )
        until = options.get("until") or []
        bound = next((int(options[key]) for key in BOUNDS if options.get(key)), NEW_TOKENS)
        if bound >= self.max_length:
            raise CalibrationError(
                f"lm-eval requests {bound} new tokens; the model has {self.max_length} positions. "
                "Leave that task out."
            )
        ids = encode(self.tokenizer, context)[-(self.max_length - bound) :]
        return WritingRequest(ids, [until] if isinstance(until, str) else list(until), bound)

    def _answers(
        self, name: str, requests: list[Any], answer: Callable[..., ModelAnswer]
    ) -> Iterator[tuple[Any, Any]]:
        """Each of `requests` with its answer, computed or from the cache."""
        for start in range(0, len(requests), CHUNK):
            self.show(f"lm-eval, {start} of {len(requests)} {name}")
            chunk = requests[start : start + CHUNK]
            answers = self.examinee.part(
                f"lm-eval-{name}", list(map(asdict, chunk)), partial(answer, chunk=chunk)
            )
            yield from zip(chunk, answers, strict=True)


def _measure(engine: Engine, chunk: Sequence[ChoiceRequest]) -> ModelAnswer:
    continuations = Continuations(engine)
    answers: list[object] = [[asdict(each) for each in one] for one in continuations.score(chunk)]
    return ModelAnswer(answers, continuations.computed, 0)


def _write(engine: Engine, chunk: Sequence[WritingRequest]) -> ModelAnswer:
    texts = {}
    prompt = new = 0
    for until, bound in dict.fromkeys((tuple(each.until), each.bound) for each in chunk):
        alike = [
            n for n, each in enumerate(chunk) if (tuple(each.until), each.bound) == (until, bound)
        ]
        ends = [text for text in until if text]
        written = write_answers(
            engine,
            [chunk[n].ids for n in alike],
            SamplingParams(bound),
            lambda text, ends=ends: any(end in text for end in ends),
        )
        for n, sequence in zip(alike, written, strict=True):
            texts[n] = _cut(sequence.text, ends)
            prompt += len(sequence.prompt) - sequence.reused
            new += len(sequence.tokens)
    return ModelAnswer([texts[n] for n in range(len(chunk))], prompt, new)


def _cut(text: str, ends: Sequence[str]) -> str:
    for end in ends:
        text = text.partition(end)[0]
    return text
