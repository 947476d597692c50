"""Stage 4: a server under load, or the embedded engine; latencies, throughput and errors."""

import os
from dataclasses import dataclass, replace

from salient.awq.calibration import load_tokenizer
from salient.core.errors import RequestError
from salient.core.intervals import wilson
from salient.core.progress import Progress
from salient.core.report import Table
from salient.loadtest.client import resolve_model
from salient.loadtest.load_runner import run_load
from salient.loadtest.plan import LoadPlan, LoadStep, LoadTarget, base_url, check_plan
from salient.loadtest.report import to_report
from salient.loadtest.result import LatencySummary, LoadResult
from salient.runtime.load_engine import EngineOptions
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import ModelPair
from salient.validate.policy.verdict import Measurement
from salient.validate.stage import Stage

from .embedded_target import counter, run_embedded

EMBEDDED = "embedded"
TIMEOUT = 300.0  # seconds for a whole request
MOST_FAILED = 0.1  # of a step's requests: what P90 leaves out
MEASURED = ("error_rate", "ttft_p90", "itl_p90", "throughput")
PLAN = LoadPlan(
    steps=(LoadStep(1), LoadStep(4), LoadStep(8)),
    requests=16,
    seconds=60.0,
    prompt_tokens=128,
    output_tokens=64,
)
SERVER_PLAN = replace(PLAN, requests=64, seconds=None, prompt_tokens=256, output_tokens=128)


@dataclass(frozen=True)
class LoadRequest:
    """What to test.

    target: a server's address, or "embedded" for our engine of the checkpoint
    model: the name that the server serves; None: the first that it lists
    plan: None for PLAN, or SERVER_PLAN for a server
    """

    target: str = EMBEDDED
    model: str | None = None
    plan: LoadPlan | None = None

    @property
    def asked(self) -> LoadPlan:
        return self.plan or (PLAN if self.target == EMBEDDED else SERVER_PLAN)


def check_load(pair: ModelPair, request: LoadRequest) -> None:
    """Raises RequestError for what cannot be asked."""
    check_plan(request.asked)
    if request.target != EMBEDDED:
        try:
            base_url(_target(request))
        except RequestError as error:
            raise RequestError(f"--load-test: {error} Or 'embedded', or 'off'.") from None


def measure_load(
    pair: ModelPair, request: LoadRequest, store: ValidationCache, progress: Progress
) -> Stage:
    """Run the steps. What is judged: errors and latencies of the worst step, throughput of the
    best, so that a policy's bounds hold for every load that was asked for.

    A server that does not answer leaves everything undecided; requests that fail are figures.
    Nothing is kept for a resumed run: times belong to their moment.
    """
    check_load(pair, request)
    target = _target(request)
    if request.target == EMBEDDED:
        results = _embedded(pair, request.asked, progress)
        target = replace(target, url=EMBEDDED, model=pair.checkpoint.name)
    else:
        target = resolve_model(target)
        tokenizer = load_tokenizer(pair.reference.source.folder)
        results = run_load(target, request.asked, progress, counter(tokenizer))
    report = to_report(target, results)
    data = {
        "target": target.url,
        "model": target.model,
        "tool": results[0].tool,
        "steps": report.data["steps"],
    }
    tables = [Table(t.title, t.columns, t.rows) for t in report.tables]
    lines = [*report.lines, judged_words(results)]
    return Stage("load", data, measurements(results), tables, lines)


def _target(request: LoadRequest) -> LoadTarget:
    key = os.environ.get("OPENAI_API_KEY")
    return LoadTarget(request.target, request.model or "", api_key=key, timeout=TIMEOUT)


def _embedded(pair: ModelPair, plan: LoadPlan, progress: Progress) -> list[LoadResult]:
    most = max(step.concurrency for step in plan.steps)
    positions = 2 * plan.prompt_tokens + plan.output_tokens  # prompts have about their length
    longest = pair.longest_context or positions
    options = EngineOptions(device=pair.device, slots=most, context=min(positions, longest))
    return run_embedded(pair.checkpoint.open_engine(options).engine, plan, progress)


def measurements(results: list[LoadResult]) -> list[Measurement]:
    """What the policy judges: errors and latencies of the worst step, throughput of the best.

    A failed request has no time. Where more than a tenth of a step's failed, its P90 is nobody's,
    and nothing but the errors is measured: the answers of those that got through prove nothing.
    """
    sent = sum(result.requests for result in results)
    if not sent:
        return [Measurement("load", name, None, why="no request was sent") for name in MEASURED]
    worst = max(results, key=_failed_share)
    rate = wilson(worst.failed, worst.requests) if worst.failed else None
    share = {"unit": "share of requests", "sample": worst.requests, "interval": rate}
    made = [Measurement("load", "error_rate", _failed_share(worst), **share)]
    values: dict[str, float | None] = {
        "ttft_p90": _longest([r.ttft for r in results]),
        "itl_p90": _longest([r.itl for r in results]),
        "throughput": max(result.output_rate for result in results),
    }
    why = f"{results[0].tool} does not tell it"
    if _failed_share(worst) > MOST_FAILED:
        values = dict.fromkeys(values)
        why = f"{worst.failed} of {worst.requests} requests failed with {worst.label}"
    for name, value in values.items():
        unit = "tokens/s" if name == "throughput" else "s"
        said = why if value is None else ""
        made.append(Measurement("load", name, value, unit=unit, sample=sent, why=said))
    return made


def judged_words(results: list[LoadResult]) -> str:
    """Which steps the measurements are of."""
    slowest = max(results, key=lambda r: _longest([r.ttft]) or 0.0)
    best = max(results, key=lambda r: r.output_rate)
    return (
        "Judged are errors and times of the worst step, here first tokens with "
        f"{slowest.label}, and the throughput of the best, with {best.label}."
    )


def _failed_share(result: LoadResult) -> float:
    """1 where nothing was sent: a step that was asked for and did not run."""
    return result.failed / result.requests if result.requests else 1.0


def _longest(spreads: list[LatencySummary | None]) -> float | None:
    """The largest P90, seconds; None where a step has none."""
    ends = [None if spread is None else spread.p90 for spread in spreads]
    told = [end for end in ends if end is not None]
    return max(told) / 1e3 if len(told) == len(ends) else None
