"""The figures of a plan as text: sizes, loads, memory, speeds; ranges where counts are rough."""

from math import floor, log10

from salient.core.report import mebibytes
from salient.shapes.families import ARCHITECTURES
from salient.shapes.model_shape import ModelShape

from .count_range import CountRange
from .engine_profiles import GIB
from .memory import MemoryBudget, Workload
from .ranking import Candidate
from .speed import Forecast, SpeedRange
from .stored_format import stored_format
from .weight_formats import WeightFormat

ENGINE_TITLES = {"vllm": "vLLM", "sglang": "SGLang", "salient": "Salient", "mlx": "MLX",
                 "transformers": "Transformers"}  # fmt: skip
EXACT = CountRange()
_SCALES = ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"), (1e3, " thousand"), (1, ""))


def size_text(shape: ModelShape) -> str:
    """ "8.03 billion parameters, bfloat16", or a range where they were counted roughly."""
    stored = stored_format(shape)
    kind = f"stored as {stored.title}" if stored else shape.dtype
    if not shape.exact:
        text = f"about {_billions(shape.parameters)} parameters"
        if shape.low and shape.high:
            text += f" ({_billions(shape.low)} to {_billions(shape.high)})"
        known = shape.model_type in ARCHITECTURES
        how = "counted roughly" if known else f"family {shape.model_type} unknown"
        return f"{text}, {how}, {kind}"
    count = shape.parameters
    text = f"{count / 1e9:,.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
    text += " parameters, "
    if shape.active_parameters < shape.parameters - sum(shape.towers.values()):
        text += f"{shape.active_parameters / 1e9:.2f} active for a token, "
    return text + kind


def _billions(count: int) -> str:
    scale, unit = next((s, u) for s, u in _SCALES if count >= s or s == 1)
    return f"{count / scale:.3g}{unit}"


def device_title(load: Workload) -> str:
    """ "RTX 4090", "4 x H100 SXM"."""
    return load.gpu.name if load.tp == 1 else f"{load.tp} x {load.gpu.name}"


def engine_title(load: Workload) -> str:
    """ "vLLM 0.32", "llama.cpp"."""
    name = load.engine.name
    version = f" {load.version[0]}.{load.version[1]}" if name == "vllm" else ""
    return ENGINE_TITLES.get(name, name) + version


def load_text(load: Workload) -> str:
    """ "4 sequences of 16,384 tokens"."""
    return f"{load.sequences:,} sequence{'s' * (load.sequences != 1)} of {load.context:,} tokens"


def fit_text(best: Candidate, load: Workload, counted: CountRange = EXACT) -> str:
    """Whether it fits, and what would at most."""
    memory = best.budget
    available = mebibytes(memory.available) + " on each GPU" * (load.tp > 1)
    if not counted.exact:
        answer = {"?": "unsure"}.get(counted.fits(memory), counted.fits(memory))
        least, most = map(rounded, counted.taken(memory))
        return f"{answer}, about {least} to {most} GiB of {available}"
    most = f"{memory.largest_context:,} tokens"
    text = f"{counted.fits(memory)}, {mebibytes(memory.taken)} of {available}"
    if memory.fits:
        sequences = f"{memory.most_sequences:,} sequences, or one of "
        return f"{text}; up to {sequences * (memory.most_sequences > 1)}{most}"
    text += f": {mebibytes(memory.taken - memory.available)} too much"
    if memory.most_sequences:
        text += f"; {memory.most_sequences:,} of {load.sequences:,} sequences fit"
    elif memory.largest_context:
        text += f"; one sequence of {most} fits"
    return text


def rounded(count: float) -> str:
    """Bytes in GiB, to two digits."""
    gib = count / GIB
    digits = 1 - floor(log10(gib)) if gib > 0 else 0
    return f"{round(gib, digits):,.{max(0, digits)}f}"


def taken_text(memory: MemoryBudget, counted: CountRange = EXACT) -> str:
    """GiB that are taken, for a column that names the unit."""
    return gibibytes(memory.taken) if counted.exact else f"~{rounded(memory.taken)}"


def gibibytes(count: float) -> str:
    """Bytes as a number of GiB, for columns that name the unit."""
    return f"{count / GIB:,.2f}" if count < 1000 * GIB else f"{count / GIB:,.0f}"


def speed_text(best: Candidate, load: Workload, counted: CountRange = EXACT) -> str:
    """Tokens a second and seconds to the first one, by forecast."""
    if best.forecast is None:
        return "unknown: name the device with --gpu"
    alone, text = span_text(best.forecast.decode, counted), "" if best.budget.fits else "would be "
    if load.sequences == 1:
        text += f"{alone} tokens/s"
    else:
        text += f"{each_text(best.forecast, load, counted)} tokens/s each, "
        text += f"{span_text(best.forecast.together, counted)} in all, "
        text += f"{alone} alone"
    return f"{text}; first token in {first_token_text(best.forecast, counted)}"


def each_text(forecast: Forecast, load: Workload, counted: CountRange = EXACT) -> str:
    """Tokens a second of each sequence while all of the load are decoded."""
    rate, count = forecast.together, load.sequences
    return span_text(SpeedRange(rate.low / count, rate.middle / count, rate.high / count), counted)


def span_text(span: SpeedRange, counted: CountRange = EXACT) -> str:
    """ "85-140"; below 10 with one decimal."""
    wide = counted.speed(span)
    low, high = (f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}" for rate in (wide.low, wide.high))
    return low if low == high else f"{low}-{high}"


def first_token_text(forecast: Forecast, counted: CountRange = EXACT) -> str:
    """ "0.15-0.21 s"."""
    low, high = forecast.ttft.low * counted.low, forecast.ttft.high * counted.high
    return f"{low:.2f} s" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f}-{high:.2f} s"


def loss_text(form: WeightFormat) -> str:
    """The loss of quality without its source."""
    return form.loss.partition(" (")[0]
