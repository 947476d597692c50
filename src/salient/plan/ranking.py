"""Which format to take: every format planned, judged against what is asked, and ranked.

The order: those that the engine runs, that fit, that meet every requirement; then by a score,
doublings of decoding speed over 16-bit less a penalty for the published loss. The reasons are told.
"""

import math
from dataclasses import dataclass

from salient.core.report import mebibytes
from salient.plan.vllm.route import Route
from salient.shapes.model_shape import ModelShape

from .engine_kernels import route_of
from .memory import MemoryBudget, Workload, budget
from .requirements import Requirements
from .speed import Forecast, SpeedRange, forecast
from .weight_formats import FORMATS, WeightFormat, bytes_read


@dataclass(frozen=True)
class Candidate:
    """One format on one device. unmet: what it misses, in words; reasons: what speaks for or
    against it; score: doublings of speed over 16-bit less the penalty of its loss."""

    form: WeightFormat
    route: Route
    budget: MemoryBudget
    forecast: Forecast | None
    unmet: tuple[str, ...]
    reasons: tuple[str, ...]
    score: float

    @property
    def runs(self) -> bool:
        """Whether the engine takes it and it fits."""
        return self.route.pace != "refused" and self.budget.fits

    @property
    def good(self) -> bool:
        return self.runs and not self.unmet


def candidates(shape: ModelShape, load: Workload, asked: Requirements) -> list[Candidate]:
    """Every format that the engine runs, best first; those of other engines are left out."""
    forms = [form for form in FORMATS.values() if load.engine.name in form.engines]
    base = _rate(shape, FORMATS["fp16"], load, None)
    made = []
    for form in forms:
        route = route_of(shape, form, load)
        planned = budget(shape, form, load)
        seen = forecast(shape, form, load, route)
        score = math.log2(_rate(shape, form, load, seen) / base) - form.penalty
        unmet = _unmet(form, planned, seen, asked)
        reasons = _reasons(form, route, planned, seen, asked, load)
        made.append(Candidate(form, route, planned, seen, unmet, reasons, score))
    return sorted(made, key=_order)


def _order(one: Candidate) -> tuple[bool, bool, int, float]:
    return one.route.pace == "refused", not one.budget.fits, len(one.unmet), -one.score


def _rate(shape: ModelShape, form: WeightFormat, load: Workload, seen: Forecast | None) -> float:
    """Tokens a second, or where there is no forecast one over the bytes read, which is alike."""
    if seen:
        return seen.decode.middle
    speed = load.gpu.bandwidth * 0.85 or 1.0
    return speed * 1e9 / max(1.0, bytes_read(shape, form))


def _unmet(
    form: WeightFormat, planned: MemoryBudget, seen: Forecast | None, asked: Requirements
) -> tuple[str, ...]:
    said = []
    if asked.timed and seen is None:
        said.append("no forecast without a device of the catalogue")
    if seen and asked.ttft and seen.ttft.middle > asked.ttft:
        said.append(f"first token in {seen.ttft.middle:.2f} s, asked {asked.ttft:g} s")
    if seen and asked.decode and seen.decode.middle < asked.decode:
        said.append(f"{seen.decode.middle:.0f} tokens a second, asked {asked.decode:g}")
    if seen and asked.throughput and seen.together.middle < asked.throughput:
        said.append(
            f"{seen.together.middle:.0f} tokens a second in all, asked {asked.throughput:g}"
        )
    if asked.memory and planned.taken > asked.memory:
        said.append(f"takes {mebibytes(planned.taken)}, asked {mebibytes(asked.memory)}")
    if asked.tune and form.tuning.startswith("no"):
        said.append(f"fine-tuning: {form.tuning}")
    return tuple(said)


def _reasons(
    form: WeightFormat,
    route: Route,
    planned: MemoryBudget,
    seen: Forecast | None,
    asked: Requirements,
    load: Workload,
) -> tuple[str, ...]:
    over = planned.taken - planned.available
    said = [
        f"takes {mebibytes(planned.taken)} of {mebibytes(planned.available)}"
        if over <= 0
        else f"does not fit: {mebibytes(over)} too much"
    ]
    said.append(f"{route.kernel}: {route.why}" if route.kernel else f"refused: {route.why}")
    if seen:
        alone = load.sequences == 1
        together = "" if alone else f" each alone, {_span(seen.together)} together"
        said.append(f"{_span(seen.decode)} tokens a second{together}, first token in {_time(seen)}")
    said.append(f"loss: {form.loss}")
    if asked.tune:
        said.append(f"fine-tuning: {form.tuning}")
    if planned.stored.unfit:
        first = planned.stored.unfit[0]
        more = len(planned.stored.unfit) - 1
        said.append(f"stays at 16 bits: {first}" + (f" and {more} more" if more else ""))
    return tuple(said)


def _span(span: SpeedRange) -> str:
    return f"{span.low:.0f} to {span.high:.0f}"


def _time(seen: Forecast) -> str:
    return f"{seen.ttft.low:.2f} to {seen.ttft.high:.2f} s"
