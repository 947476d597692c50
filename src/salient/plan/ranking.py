"""Every format planned, compared with the requirements, and ranked.

The order: formats that the engine runs; those that fit, then the others by the memory that they
lack; those that meet every requirement; what is stored; then by a score, doublings of the tokens a
second under the load over 16-bit minus a penalty for the published loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from salient.core.errors import RequestError
from salient.core.report import mebibytes
from salient.plan.vllm.types import Route
from salient.shapes.model_shape import ModelShape

from .engine_kernels import offered, route_of
from .memory import MemoryBudget, Workload, budget
from .requirements import Requirements
from .speed import Forecast, SpeedRange, answer_tokens, forecast
from .stored_format import SOURCE_NEEDED, STORED, plan_formats
from .weight_formats import FORMATS, WeightFormat, bytes_read

OTHER_LOSS = 0.1  # doublings by which the penalties of formats of another quality differ


@dataclass(frozen=True)
class Candidate:
    """One format on one device.

    unmet: requirements that it misses; reasons: for or against it
    score: doublings of `loaded_rate` over 16-bit minus the penalty of its loss
    """

    form: WeightFormat
    route: Route
    budget: MemoryBudget
    forecast: Forecast | None
    unmet: tuple[str, ...]
    reasons: tuple[str, ...]
    score: float

    @property
    def lacks(self) -> int:
        """Bytes of each GPU's memory by which it does not fit, 0 where it does."""
        return max(0, self.budget.taken - self.budget.available)

    @property
    def runs(self) -> bool:
        """Whether the engine takes it and it fits."""
        return self.route.pace != "refused" and self.budget.fits

    @property
    def good(self) -> bool:
        return self.runs and not self.unmet


def judgement(ranked: Sequence[Candidate], load: Workload) -> str:
    """Why the first was ranked before the next best, where speed was weighed against loss.

    "" where nothing else does, where no other is faster or loses less, or speeds are unknown.
    """
    best, *others = ranked
    rest = [one for one in others if one.good and _weighed(best, one, load)]
    following = max(rest, key=lambda one: one.score, default=None)
    if following is None or not best.good or not (best.forecast and following.forecast):
        return ""
    pair = f"{best.form.title} before {following.form.title}"
    if best.form.name == STORED:
        return f"{pair}: what is stored comes before what must be made"
    ratio = loaded_rate(best.forecast, load) / loaded_rate(following.forecast, load)
    rates = f"{ratio:.2f} x the tokens/s of {load.sequences} at once"
    if best.form.penalty < following.form.penalty:
        return f"{pair}: less loss, at {rates}"
    price = 2 ** (best.form.penalty - following.form.penalty)
    return f"{pair}: {rates}, more than the {price:.2f} x that its loss counts for (a judgement)"


def _weighed(best: Candidate, other: Candidate, load: Workload) -> bool:
    """Whether `other` loses less than `best`, or loses more and is faster."""
    more_loss = other.form.penalty - best.form.penalty
    if more_loss < OTHER_LOSS or not (best.forecast and other.forecast):
        return more_loss <= -OTHER_LOSS
    return loaded_rate(other.forecast, load) > loaded_rate(best.forecast, load)


def candidates(shape: ModelShape, load: Workload, required: Requirements) -> list[Candidate]:
    """The stored format and every other that the engine runs, best first."""
    ranked = [
        candidate(shape, form, load, required)
        for form in plan_formats(shape)
        if form.name == STORED or (load.engine.family in form.engines and offered(form, load))
    ]
    return sorted(ranked, key=_order)


def select_formats(ranked: list[Candidate], names: tuple[str, ...]) -> list[Candidate]:
    """The candidates that `names` mean: "fp8", "awq", "w4-g64", "GGUF Q4_K_M"; all for no names.

    Raises RequestError listing the formats where a name means none.
    """
    chosen: list[Candidate] = []
    for name in names:
        matches = [one for one in ranked if _matches(one.form, name)]
        if not matches:
            known = ", ".join(one.form.title for one in ranked)
            raise RequestError(f"--format {name!r} is unknown. Formats of the engine: {known}.")
        chosen += matches
    return [one for one in ranked if one in chosen] if names else ranked


def _matches(form: WeightFormat, name: str) -> bool:
    """Whether `name` is the format's name, method or title, or words of its title."""
    plain = name.strip().lower()
    return (
        plain in (form.name, form.method)
        or plain in form.title.lower().split()
        or (plain == form.title.lower())
    )


def candidate(
    shape: ModelShape, form: WeightFormat, load: Workload, required: Requirements
) -> Candidate:
    """One format planned for the load."""
    route = route_of(shape, form, load)
    memory = budget(shape, form, load)
    speed = forecast(shape, form, load, route)
    plain = _rate(shape, FORMATS["fp16"], load, None)
    score = math.log2(_rate(shape, form, load, speed) / plain) - form.penalty
    unmet = tuple(_unmet(form, memory, speed, load, required))
    reasons = [
        _fit_reason(memory),
        f"{route.kernel}: {route.why}" if route.kernel else f"refused: {route.why}",
        *_speed_reason(speed, load),
        f"loss: {form.loss}",
    ]
    if shape.quantization and not form.ready:
        reasons.append(SOURCE_NEEDED)
    if form.maker:
        reasons.append(f"made by {form.maker}")
    if required.tune:
        reasons.append(f"fine-tuning: {form.tuning}")
    if memory.stored.unfit:
        first, *rest = memory.stored.unfit
        reasons.append(f"unquantized: {first}" + (f" and {len(rest)} more" if rest else ""))
    return Candidate(form, route, memory, speed, unmet, tuple(reasons), score)


def _order(one: Candidate) -> tuple[bool, int, int, bool, float]:
    """What exists comes before what must be made of another model; also where its weights fit and
    only its load does not."""
    refused, other = one.route.pace == "refused", one.form.name != STORED
    weights = one.budget.items[0].bytes
    near = min(1, one.lacks) if not other and weights <= one.budget.available else one.lacks
    return refused, near, len(one.unmet), other, -one.score


def _rate(shape: ModelShape, form: WeightFormat, load: Workload, speed: Forecast | None) -> float:
    """`loaded_rate`, or bandwidth over the bytes read where there is no forecast."""
    if speed:
        return loaded_rate(speed, load)
    bandwidth = load.gpu.bandwidth * 0.85 or 1.0
    return bandwidth * 1e9 / max(1.0, bytes_read(shape, form, load.sequences))


def loaded_rate(speed: Forecast, load: Workload) -> float:
    """Tokens a second of all sequences together, with their prompts' time.

    Each sequence reads a prompt and writes the rest of the context; a step that reads a prompt
    holds up the others.
    """
    answer = answer_tokens(load)
    decoding = answer * load.sequences / speed.together.middle
    return load.sequences * answer / (decoding + load.sequences * speed.prompt)


def _unmet(
    form: WeightFormat,
    memory: MemoryBudget,
    speed: Forecast | None,
    load: Workload,
    required: Requirements,
) -> list[str]:
    unmet: list[str] = []
    if required.timed and speed is None:
        unmet.append("no forecast without a device of the catalogue")
    if speed:
        unmet += _too_slow(speed, load, required)
    if required.memory and memory.taken > required.memory:
        taken, bound = mebibytes(memory.taken), mebibytes(required.memory)
        unmet.append(f"takes {taken}, required {bound}")
    if required.tune and form.tuning.startswith("no"):
        unmet.append(f"fine-tuning: {form.tuning}")
    return unmet


def _too_slow(speed: Forecast, load: Workload, required: Requirements) -> list[str]:
    ttft, total = speed.ttft.middle, speed.together.middle
    decode = total / load.sequences
    unmet: list[str] = []
    if required.ttft and ttft > required.ttft:
        unmet.append(f"first token in {ttft:.2f} s, required {required.ttft:g} s")
    if required.decode and decode < required.decode:
        unmet.append(f"{decode:.0f} tokens a second, required {required.decode:g}")
    if required.throughput and total < required.throughput:
        unmet.append(f"{total:.0f} tokens a second in all, required {required.throughput:g}")
    return unmet


def _fit_reason(memory: MemoryBudget) -> str:
    if memory.fits:
        return f"takes {mebibytes(memory.taken)} of {mebibytes(memory.available)}"
    return f"does not fit: {mebibytes(memory.taken - memory.available)} too much"


def _speed_reason(speed: Forecast | None, load: Workload) -> list[str]:
    if speed is None:
        return []
    total = "" if load.sequences == 1 else f" alone, {_rates(speed.together)} in all"
    ttft = f"{speed.ttft.low:.2f} to {speed.ttft.high:.2f} s"
    return [f"{_rates(speed.decode)} tokens a second{total}, first token in {ttft}"]


def _rates(span: SpeedRange) -> str:
    return f"{span.low:.0f} to {span.high:.0f}"
