"""Result of a validation: the stages, the verdict, and what was measured where."""

from dataclasses import dataclass

from salient.core.records import to_json
from salient.validate.attribution.result import AttributionResult
from salient.validate.context.result import ContextResult
from salient.validate.likelihood.result import LikelihoodResult
from salient.validate.load.result import LoadTestStageResult
from salient.validate.policy.verdict import Verdict
from salient.validate.tasks.result import TaskResult

from .companions.difference import FileDifference
from .integrity.result import IntegrityResult
from .model_pair import ModelSummary
from .run_environment import MemoryUse, RunEnvironment
from .stage import StageResult, UnmeasuredStage

STAGE_NAMES = ("likelihood", "tasks", "context", "load", "attribution")


@dataclass(frozen=True)
class ValidationResult:
    """A checkpoint against its reference, both as the user named them.

    salient: version   date: ISO 8601   a stage that was not selected, or no policy: None
    differences: of what is served next to the weights
    integrity: of a quantized checkpoint's tensors; None where it was not compared
     cached_parts: that earlier runs measured
    """

    checkpoint: str
    reference: str
    salient: str
    environment: RunEnvironment
    model: ModelSummary
    date: str
    seconds: float
    memory: MemoryUse
    differences: tuple[FileDifference, ...] = ()
    integrity: IntegrityResult | None = None
    likelihood: LikelihoodResult | UnmeasuredStage | None = None
    tasks: TaskResult | UnmeasuredStage | None = None
    context: ContextResult | UnmeasuredStage | None = None
    load: LoadTestStageResult | UnmeasuredStage | None = None
    attribution: AttributionResult | UnmeasuredStage | None = None
    verdict: Verdict | None = None
    cached_parts: int = 0

    @property
    def stages(self) -> dict[str, StageResult]:
        """The stages that were selected, by name."""
        stages = {name: getattr(self, name) for name in STAGE_NAMES}
        return {name: stage for name, stage in stages.items() if stage is not None}

    def to_dict(self) -> dict[str, object]:
        """The JSON document."""
        return {
            "checkpoint": self.checkpoint,
            "reference": self.reference,
            "salient": self.salient,
            "machine": to_json(self.environment),
            "model": to_json(self.model),
            "date": self.date,
            "seconds": self.seconds,
            "memory": self.memory.to_dict(),
            "differences": to_json(self.differences),
            **({"integrity": self.integrity.to_dict()} if self.integrity else {}),
            **{name: stage.to_dict() for name, stage in self.stages.items()},
            **({"verdict": self.verdict.to_dict()} if self.verdict else {}),
        }
