"""Result of a validation: the stages, the verdict, and what was measured where."""

from dataclasses import asdict, dataclass

from salient.validate.attribution.result import AttributionResult
from salient.validate.context.result import ContextResult
from salient.validate.likelihood.result import LikelihoodResult
from salient.validate.load.result import LoadTestStageResult
from salient.validate.policy.verdict import Verdict
from salient.validate.tasks.result import TaskResult

from .stage import StageResult, UnmeasuredStage


@dataclass(frozen=True)
class RunEnvironment:
    """The machine of a validation. memory_bytes: None if unknown; device: of the streamed models"""

    processor: str
    cores: int
    memory_bytes: int | None
    gpus: tuple[str, ...]
    system: str
    device: str

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "gpus": list(self.gpus)}


@dataclass(frozen=True)
class ModelSummary:
    """The model of both sides; scheme, format and bits: the checkpoint's, None if unquantized."""

    architecture: str
    blocks: int
    width: int
    vocabulary: int
    scheme: str | None
    format: str | None
    bits_per_weight: float | None


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of both models' weights, by part for the checkpoint, and this process's peak."""

    reference_bytes: int
    checkpoint_bytes: int
    peak_bytes: int | None
    parts: dict[str, int]

    def to_dict(self) -> dict[str, object]:
        parts = [{"name": name, "bytes": size} for name, size in self.parts.items()]
        return {**asdict(self), "parts": parts}


@dataclass(frozen=True)
class ValidationResult:
    """A checkpoint against its reference, both as the user named them.

    salient: version   date: ISO 8601   a stage that was not selected, or no policy: None
    cached_parts: parts that earlier runs had measured
    """

    checkpoint: str
    reference: str
    salient: str
    environment: RunEnvironment
    model: ModelSummary
    date: str
    seconds: float
    memory: MemoryUse
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
        stages = {
            "likelihood": self.likelihood,
            "tasks": self.tasks,
            "context": self.context,
            "load": self.load,
            "attribution": self.attribution,
        }
        return {name: stage for name, stage in stages.items() if stage is not None}

    def to_dict(self) -> dict[str, object]:
        """The JSON document."""
        return {
            "checkpoint": self.checkpoint,
            "reference": self.reference,
            "salient": self.salient,
            "machine": self.environment.to_dict(),
            "model": asdict(self.model),
            "date": self.date,
            "seconds": self.seconds,
            "memory": self.memory.to_dict(),
            **{name: stage.to_dict() for name, stage in self.stages.items()},
            **({"verdict": self.verdict.to_dict()} if self.verdict else {}),
        }
