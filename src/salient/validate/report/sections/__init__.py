"""The sections of a report, each rendered from its stage's result, and the facts of the run."""

from collections.abc import Callable

from salient.core.report import duration
from salient.validate.integrity.result import IntegrityResult
from salient.validate.model_pair import ModelSummary
from salient.validate.report import text_format as fmt
from salient.validate.report.parts import HtmlCell, Section, table
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
    if result.integrity is not None and (result.integrity.damaged or result.integrity.unjudged):
        rendered.append(_integrity_section(result.integrity))
    for name, stage in result.stages.items():
        title, render = RENDERERS[name]
        if isinstance(stage, UnmeasuredStage):
            rendered.append(Section(name, title, error=fmt.line(stage.reason, 600)))
        else:
            section = render(stage, result.verdict)
            section.name, section.title = name, title
            rendered.append(section)
    rendered.append(memory_section(result.memory, result.model))
    return [*rendered, _files_section(result)] if result.differences else rendered


def _integrity_section(result: IntegrityResult) -> Section:
    """The tensors that rounding cannot explain."""
    if result.unjudged:
        return Section("integrity", "Integrity", error=fmt.line(result.unjudged, 600))
    rows = [(fmt.line(each.name, 200), each) for each in result.damaged]
    columns = {"reason": lambda each: fmt.line(each.reason, 400)}
    lead = f"{fmt.integer(len(rows))} tensors are damaged, not just rounded."
    own = table("Damaged", "tensor", rows, columns, text_columns=("reason",), brief=("reason",))
    return Section("integrity", "Integrity", lead, tables=[own])


def _files_section(result: ValidationResult) -> Section:
    """What is served next to the weights, where it is not the reference's."""
    rows = [(fmt.line(each.subject), each) for each in result.differences]
    columns = {
        "difference": lambda each: fmt.line(each.message, 400),
        "judged": lambda each: HtmlCell("fails", sign="bad") if each.judged else "reported",
    }
    judged = sum(each.judged for each in result.differences)
    lead = (
        f"{fmt.integer(len(rows))} differences from the reference's files, {judged} of them judged."
    )
    names = tuple(columns)
    own = table("Files that differ", "what", rows, columns, text_columns=names, brief=names)
    return Section("files", "Files", lead, tables=[own])


def method_facts(result: ValidationResult) -> list[tuple[str, str]]:
    """How it was measured, as names and values; what is unknown is left out."""
    model, machine = result.model, result.environment
    facts = (
        ("Checkpoint", fmt.line(result.checkpoint, 200)),
        ("Reference", fmt.line(result.reference, 200)),
        ("Model", fmt.line(model.architecture)),
        ("Blocks, width", f"{fmt.integer(model.blocks)}, {fmt.integer(model.width)}"),
        ("Vocabulary", fmt.integer(model.vocabulary)),
        ("Scheme", scheme_summary(model)),
        ("Processor", fmt.line(machine.processor, 120)),
        ("Cores", fmt.integer(machine.cores)),
        ("Memory", fmt.show(machine.memory_bytes, fmt.size, "")),
        ("Device", fmt.line(machine.device)),
        ("GPUs", ", ".join(fmt.line(name, 60) for name in machine.gpus[:8])),
        ("System", fmt.line(machine.system, 120)),
        ("Time", duration(result.seconds)),
        ("Date", fmt.line(result.date)),
        ("Salient", fmt.line(result.salient)),
    )
    return [(name, value) for name, value in facts if value]


def scheme_summary(model: ModelSummary) -> str:
    """The checkpoint's scheme, format and bits on one line."""
    bits = f"{model.bits_per_weight:.6g} bits a weight" if model.bits_per_weight else ""
    return ", ".join(filter(None, (fmt.line(model.scheme), fmt.line(model.format), bits)))
