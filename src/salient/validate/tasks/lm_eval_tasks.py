"""Tasks of EleutherAI's lm-evaluation-harness, answered by our engine.

They are named like `lm-eval:hellaswag,arc_easy`. The library chooses the examples, writes the
prompts and says what is right. It needs the extra `eval`, and the network for tasks that are not
files.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any

from salient.core.errors import CalibrationError, MissingExtra

from .answering import LONGEST_ANSWER
from .comparison import TaskOutcome
from .examinee import Examinee
from .lm_eval_model import EngineModel
from .scoring import choose
from .task_sets import Example

PREFIX = "lm-eval:"
# The metric that says that an example is right: the first of these that a task has, else any of
# zeros and ones. As the library's users report them.
DECIDING = ("acc_norm", "acc", "exact_match")
FIELDS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}

Sat = tuple[Example, TaskOutcome]


def find_tasks(names: Sequence[str]) -> Any:
    """The library's task manager, once it has found and loaded all of `names`: tasks, groups, or
    the .yaml files of such.

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
        found = manager.load(list(names))["tasks"]
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise CalibrationError(
            f"lm-eval cannot load {', '.join(names)[:200]} ({reason}). Data sets come over the "
            "network, once."
        ) from error
    unsafe = [name for name, task in found.items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe:
        raise CalibrationError(
            f"The task {unsafe[0]} runs code that the model writes. Run it with lm-eval itself, in "
            "a machine of its own."
        )
    return manager


def sit(
    manager: Any,
    names: Sequence[str],
    examinee: Examinee,
    most: int | None,
    told: Callable[[str], None],
) -> tuple[list[Sat], list[str]]:
    """The examples of some tasks, at most `most` of each, and what the model made of them; and in
    words what makes an answer right.

    Raises CalibrationError for a task that does not say of each example whether it is right.
    """
    template = _library("lm_eval.api.model").TemplateLM
    model = type("SalientModel", (EngineModel, template), {})(examinee, told)
    results = _library("lm_eval.evaluator").simple_evaluate(
        model=model, tasks=list(names), task_manager=manager, limit=most, bootstrap_iters=0
    )
    found = [read(task, samples) for task, samples in results["samples"].items()]
    return [sat for sats, _ in found for sat in sats], [words for _, words in found]


def read(task: str, samples: Sequence[dict[str, Any]]) -> tuple[list[Sat], str]:
    """The samples that the library has logged for a task, of its first filter alone; and how."""
    kept = samples[0].get("filter")
    first = [s for s in samples if s.get("filter") == kept]
    metric = _deciding(task, first)
    words = f"{task}: answers are right by lm-eval's {metric}, filter {kept}."
    return [_sat(task, sample, metric) for sample in first], words


def _deciding(task: str, samples: Sequence[dict[str, Any]]) -> str:
    """The metric that says that an example is right. Raises CalibrationError without one."""
    names = [name for name in samples[0] if name not in FIELDS and not name.endswith("_hash")]
    for name in (*(n for n in DECIDING if n in names), *names):
        if all(isinstance(s[name], Real) and s[name] in (0, 1) for s in samples):
            return name
    raise CalibrationError(
        f"The lm-eval task {task} does not say of each example whether it is right (it has "
        f"{', '.join(names)[:200] or 'no metrics'}). Take one with {', '.join(DECIDING)}."
    )


def _sat(task: str, sample: dict[str, Any], metric: str) -> Sat:
    asked, said = [list(each) for each in sample["arguments"]], sample["filtered_resps"]
    choices: tuple[str, ...] = ()
    if len(asked) > 1:
        places = 1 if len({each[1] for each in asked}) > 1 else 0  # the contexts may be the choices
        choices = tuple(str(each[places]).strip() for each in asked)
        logprobs = [each[0] for each in said]
        lengths = [len(choice) for choice in choices]
        answer = choices[choose(logprobs, lengths, normalized=metric == "acc_norm")]
    elif isinstance(said[0], (list, tuple)):
        answer = asked[0][1] if said[0][1] else "something else"
    else:
        answer = str(said[0])
    target = sample["target"]
    if choices and isinstance(target, int) and 0 <= target < len(choices):
        target = choices[target]
    prompt = str(asked[0][0])
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
