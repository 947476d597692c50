"""The sections of a report, each rendered from the result of its stage."""

from collections.abc import Callable

from salient.validate.report.parts import Section
from salient.validate.report.text_format import line
from salient.validate.result import ValidationResult
from salient.validate.stage import UnmeasuredStage

from .attribution import attribution_section
from .context import context_section
from .likelihood import likelihood_section
from .load import load_section
from .memory import memory_section
from .tasks import tasks_section

# stage -> title, and how its result is rendered with the verdict on it
RENDERERS: dict[str, tuple[str, Callable[..., Section]]] = {
    "likelihood": ("Likelihood", likelihood_section),
    "tasks": ("Tasks", tasks_section),
    "context": ("Long context", context_section),
    "load": ("Load", load_section),
    "attribution": ("Where the loss comes from", attribution_section),
}


def sections(result: ValidationResult) -> list[Section]:
    """The selected stages in order, then memory."""
    rendered = []
    for name, stage in result.stages.items():
        title, render = RENDERERS[name]
        if isinstance(stage, UnmeasuredStage):
            rendered.append(Section(name, title, error=line(stage.reason, 600)))
        else:
            rendered.append(render(stage, result.verdict))
    return [*rendered, memory_section(result.memory, result.model)]
