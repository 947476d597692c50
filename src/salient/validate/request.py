"""The stages that the options of `validate` and `evaluate` select."""

from dataclasses import replace

from salient.core.options import numbers, strings
from salient.validate.attribution.measure import AttributionRequest
from salient.validate.context.measure import ContextRequest
from salient.validate.likelihood.measure import LikelihoodRequest
from salient.validate.load.measure import LoadRequest
from salient.validate.tasks.measure import TasksRequest

from .options import EvaluateOptions, ValidateOptions
from .stages import StageSelection


def validation_stages(options: ValidateOptions) -> StageSelection:
    """All stages that are not switched off."""
    return StageSelection(
        _likelihood(options),
        _tasks(options),
        _context(options),
        None if options.load_test is None else LoadRequest(options.load_test),
        _attribution(options),
    )


def evaluation_stages(options: EvaluateOptions) -> StageSelection:
    """The stages that the options name; likelihood with texts, or where nothing else is named."""
    others = StageSelection(None, _tasks(options), _context(options), None, _attribution(options))
    only = options.text or not others.names
    return replace(others, likelihood=_likelihood(options)) if only else others


def _likelihood(options: EvaluateOptions) -> LikelihoodRequest:
    return LikelihoodRequest(
        strings(options.text),
        options.samples,
        options.sequence_length,
        options.stride,
        options.protocol,
    )


def _tasks(options: EvaluateOptions) -> TasksRequest | None:
    names = strings(options.tasks)
    return TasksRequest(names) if names else None


def _context(options: EvaluateOptions) -> ContextRequest | None:
    lengths = options.context_lengths
    if lengths is None:
        return None
    if isinstance(lengths, str):
        return ContextRequest()
    return ContextRequest(tuple(sorted(set(numbers(lengths)))))


def _attribution(options: EvaluateOptions) -> AttributionRequest | None:
    return AttributionRequest(strings(options.text)) if options.attribute else None
