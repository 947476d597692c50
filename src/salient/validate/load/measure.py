"""The load stage: latencies, throughput and errors of a server, or of the embedded engine."""

import math
import os
from dataclasses import dataclass, replace

from salient.core.errors import RequestError
from salient.core.progress import Progress
from salient.loadtest.client import resolve_model
from salient.loadtest.load_runner import run_load
from salient.loadtest.plan import LoadPlan, LoadStep, LoadTarget, base_url, check_plan
from salient.loadtest.result import LoadResult
from salient.models.tokens import load_tokenizer
from salient.runtime.load_engine import EngineOptions
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import ModelPair

from .embedded_target import counter, run_embedded
from .result import LoadTestStageResult

EMBEDDED = "embedded"
TIMEOUT = 300.0  # seconds for a whole request
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
    """Options of the stage.

    target: a server's address, or "embedded" for our engine of the checkpoint
    model: the name that the server serves; None: the first that it lists
    plan: None for PLAN, or SERVER_PLAN for a server
    requests: of all steps, at least
    """

    target: str = EMBEDDED
    model: str | None = None
    plan: LoadPlan | None = None
    requests: int = 0

    @property
    def load_plan(self) -> LoadPlan:
        plan = self.plan or (PLAN if self.target == EMBEDDED else SERVER_PLAN)
        each = math.ceil(self.requests / max(len(plan.steps), 1))
        return replace(plan, requests=plan.requests and max(plan.requests, each))


def check_load(pair: ModelPair, request: LoadRequest) -> None:
    """Raises RequestError for an invalid plan or address."""
    check_plan(request.load_plan)
    if request.target != EMBEDDED:
        try:
            base_url(_target(request))
        except RequestError as error:
            raise RequestError(f"--load-test: {error} Or 'embedded', or 'off'.") from None


def measure_load(
    pair: ModelPair, request: LoadRequest, cache: ValidationCache, progress: Progress
) -> LoadTestStageResult:
    """Run the steps.

    Requests that fail are figures. Raises SalientError where the server does not answer. Nothing is
    cached: times belong to their moment.
    """
    check_load(pair, request)
    target = _target(request)
    if request.target == EMBEDDED:
        results = _embedded(pair, request.load_plan, progress)
        target = replace(target, url=EMBEDDED, model=pair.checkpoint.name)
    else:
        target = resolve_model(target)
        tokenizer = load_tokenizer(pair.reference.companions)
        results = run_load(target, request.load_plan, progress, counter(tokenizer))
    return LoadTestStageResult(target.url, target.model, results[0].tool, tuple(results))


def _target(request: LoadRequest) -> LoadTarget:
    key = os.environ.get("OPENAI_API_KEY")
    return LoadTarget(request.target, request.model or "", api_key=key, timeout=TIMEOUT)


def _embedded(pair: ModelPair, plan: LoadPlan, progress: Progress) -> list[LoadResult]:
    most = max(step.concurrency for step in plan.steps)
    positions = 2 * plan.prompt_tokens + plan.output_tokens  # prompts have about their length
    longest = pair.longest_context or positions
    options = EngineOptions(device=pair.device, slots=most, context_length=min(positions, longest))
    return run_embedded(pair.checkpoint.open_engine(options).engine, plan, progress)
