"""How it was measured: model, machine, versions, time."""

from salient.core.report import duration
from salient.validate.model_pair import ModelSummary
from salient.validate.report import text_format as fmt
from salient.validate.result import ValidationResult


def method_facts(result: ValidationResult) -> list[tuple[str, str]]:
    """Names and values; what is unknown is left out."""
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
