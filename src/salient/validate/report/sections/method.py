"""How it was measured: model, machine, versions, time, and what the words mean."""

from salient.validate.report.figures import show, size, whole
from salient.validate.report.parts import Section
from salient.validate.report.reading import Data, part, texts
from salient.validate.report.text_format import line

# section -> the words that its figures are named with
GLOSSARY = {
    "likelihood": (
        (
            "KL",
            "How far the checkpoint's probabilities of the next token are from the reference's: "
            "the mean over tokens of KL(reference || checkpoint), in nats. 0 is identical.",
        ),
        (
            "Same first token",
            "Top-1 agreement: the share of tokens where both models hold the same token for the "
            "likeliest.",
        ),
        (
            "Perplexity",
            "The exponential of the mean negative log-probability of the text's own tokens. Its "
            "increase is the checkpoint's over the reference's, less 1.",
        ),
        (
            "95% interval",
            "Where the figure would be for other windows of the same kind, in 95 of 100 "
            "repetitions; by the bootstrap.",
        ),
    ),
    "tasks": (
        (
            "Retention",
            "Examples that the checkpoint gets right, over those that the reference gets right.",
        ),
        ("Lost, gained", "Examples that only the reference, or only the checkpoint, gets right."),
    ),
    "context": (("KL growth", "The KL of a window's last quarter over that of its first."),),
    "load": (
        ("First token", "From sending a request to the first piece of its answer."),
        ("Between tokens", "Between two pieces of one answer."),
        ("P50, P90, P99", "The time that 50, 90 and 99 of 100 requests do not exceed."),
    ),
}


def method(data: Data) -> Section:
    """How the figures were made. Never missing: what is not known is left out."""
    model, machine = part(data, "model"), part(data, "machine")
    sides = [("Checkpoint", data.get("checkpoint")), ("Reference", data.get("reference"))]
    facts = [
        *((name, line(value, 200)) for name, value in sides),
        ("Model", line(model.get("architecture"))),
        ("Blocks, width", _pair(model.get("blocks"), model.get("width"))),
        ("Vocabulary", show(model.get("vocabulary"), whole, "")),
        ("Scheme", scheme(model)),
        ("Processor", line(machine.get("processor"), 120)),
        ("Cores", show(machine.get("cores"), whole, "")),
        ("Memory", show(machine.get("memory_bytes"), size, "")),
        ("Device", line(machine.get("device"))),
        ("GPUs", ", ".join(line(name, 60) for name in texts(machine, "gpus")[:8])),
        ("System", line(machine.get("system"), 120)),
        ("Time", show(data.get("seconds"), _duration, "")),
        ("Date", line(data.get("date"))),
        ("Salient", line(data.get("salient"))),
    ]
    section = Section("method", "How it was measured")
    section.facts = [(name, value) for name, value in facts if value]
    section.terms = [term for name, terms in GLOSSARY.items() if name in data for term in terms]
    return section


def _pair(first: object, second: object) -> str:
    both = [show(v, whole, "") for v in (first, second)]
    return ", ".join(one for one in both if one)


def scheme(model: Data) -> str:
    """How its weights are kept, on one line."""
    said = [line(model.get("scheme")), line(model.get("format"))]
    bits = show(model.get("bits_per_weight"), lambda b: f"{b:.6g}", "")
    said.append(f"{bits} bits a weight" if bits else "")
    return ", ".join(one for one in said if one)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
