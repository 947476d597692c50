"""From the words of the command line to the stages that they ask for."""

from collections.abc import Sequence

from salient.core.errors import RequestError
from salient.validate.attribution.measure import AttributionRequest
from salient.validate.context.measure import ContextRequest
from salient.validate.likelihood.measure import LikelihoodRequest
from salient.validate.load.measure import LoadRequest
from salient.validate.tasks.measure import TasksRequest
from salient.validate.tasks.task_sets import ALL

from .stages import StageSelection

OFF, AUTO = "off", "auto"


def asked_for(
    text: Sequence[str],
    tasks: Sequence[str],
    contexts: str,
    load_test: str,
    attribute: bool,  # noqa: FBT001
    windows: int | None,
    window_length: int,
    stride: int | None,
    protocol: str | None,
) -> StageSelection:
    """The stages of a validation: all that are not 'off'. Raises RequestError."""
    texts = tuple(text)
    return StageSelection(
        LikelihoodRequest(texts, windows, window_length, stride, protocol),
        _tasks(tasks or (ALL,)),
        _contexts(contexts),
        None if load_test == OFF else LoadRequest(load_test),
        AttributionRequest(texts) if attribute else None,
    )


def asked_alone(
    text: Sequence[str],
    tasks: Sequence[str],
    contexts: str,
    attribute: bool,  # noqa: FBT001
    windows: int | None,
    window_length: int,
    stride: int | None,
    protocol: str | None,
) -> StageSelection:
    """The parts that are named; likelihood where it has texts, or nothing else is named."""
    texts = tuple(text)
    likelihood = LikelihoodRequest(texts, windows, window_length, stride, protocol)
    others = bool(tasks) or contexts != OFF or attribute
    return StageSelection(
        likelihood if texts or not others else None,
        _tasks(tasks),
        _contexts(contexts),
        None,
        AttributionRequest(texts) if attribute else None,
    )


def _tasks(names: Sequence[str]) -> TasksRequest | None:
    if OFF in names and len(names) > 1:
        raise RequestError(f"--tasks off beside {', '.join(n for n in names if n != OFF)[:200]}.")
    return TasksRequest(tuple(names)) if names and OFF not in names else None


def _contexts(words: str) -> ContextRequest | None:
    """'512,2048', 'auto' (all that the model allows) or 'off'."""
    if words == OFF:
        return None
    if words == AUTO:
        return ContextRequest()
    lengths = [word.strip() for word in words.split(",") if word.strip()]
    if not lengths or not all(w.isascii() and w.isdigit() and int(w[:9]) > 0 for w in lengths):
        raise RequestError(
            f"--contexts {words[:80]!r} is no list of lengths. Give one like 512,2048,8192, "
            f"{AUTO!r} or {OFF!r}."
        )
    return ContextRequest(tuple(sorted({int(word[:9]) for word in lengths})))
