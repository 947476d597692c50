"""Result of the attribution stage, and the parts of it that the cache holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from salient.core.records import to_json
from salient.validate.policy.verdict import Measurement

NEAR, FAR = 1.5, 2.5  # times the yardstick's log_ratio
LABELS = {
    "near": "as near as two halves of the calibration text",
    "between": "somewhat unlike the calibration text",
    "far": "far from the calibration text",
}


@dataclass(frozen=True)
class DamageResult:
    """KL (nats a token) by part of the checkpoint.

    whole: of the checkpoint   outside: of its embedding, last norm and head alone
    blocks, kinds: name -> KL   together: kinds that read one input, and share a matrix in engines
    doubts: block -> why its linears cannot be told apart; the kinds leave it out
    halved: share of the KL that groups of half the size would leave, None if unknown
    """

    whole: float
    outside: float
    blocks: dict[str, float]
    kinds: dict[str, float]
    together: list[list[str]]
    doubts: dict[str, str]
    halved: float | None


@dataclass(frozen=True)
class Suggestion:
    """A change to the checkpoint. kl: what it would leave, None if unknown; bytes: it adds"""

    what: str
    kl: float | None = None
    measured: bool = False
    bytes: int = 0


@dataclass(frozen=True)
class DriftFigures:
    """How like the calibration a text is, over the inputs of linears.

    salient_share: share of the calibration's largest 1 % of channels that are the text's, too
    log_ratio: mean over channels of |ln (mean |x| on the text / mean |x| on the calibration)|
    """

    salient_share: float = field(metadata={"key": "kept_salient"})
    log_ratio: float


@dataclass(frozen=True)
class DriftResult:
    """How like the calibration the texts are.

    calibration: its name, None if unknown   yardstick: of two halves of it
    reason: why nothing was measured
    """

    calibration: str | None
    yardstick: DriftFigures | None = None
    texts: dict[str, DriftFigures] = field(default_factory=dict)
    reason: str = ""

    def label(self, text: str) -> str:
        """How far a text is."""
        assert self.yardstick is not None
        distance = self.texts[text].log_ratio / max(self.yardstick.log_ratio, 1e-9)
        return LABELS["near" if distance <= NEAR else "far" if distance > FAR else "between"]

    @property
    def far(self) -> bool:
        """Whether a text is far from the calibration."""
        return any(self.label(text) == LABELS["far"] for text in self.texts)

    @property
    def unknown(self) -> str:
        """The note in place of the figures."""
        return f"Whether the texts are like the calibration is not known: {self.reason}."

    def rows(self, remark: str) -> list[tuple[str, DriftFigures, str]]:
        """Name, figures and label of the yardstick, labelled `remark`, and of each text."""
        if self.yardstick is None:
            return []
        texts = [(name, figures, self.label(name)) for name, figures in self.texts.items()]
        return [("two halves of the calibration", self.yardstick, remark), *texts]

    def to_dict(self) -> dict[str, object]:
        if self.yardstick is None:
            return {"texts": [], "calibration": self.calibration, "why": self.reason}
        texts = [
            {"text": name, **to_json(figures), "words": label}
            for name, figures, label in self.rows("")[1:]
        ]
        yardstick = to_json(self.yardstick)
        return {"texts": texts, "calibration": self.calibration, "yardstick": yardstick}


@dataclass(frozen=True)
class AttributionResult:
    """Where the damage sits, on `windows` windows of `length` tokens.

    whole, outside: KL of the checkpoint, and of its embedding, last norm and head alone
    blocks, kinds: KL (nats a token) of the reference with that part of the checkpoint, by its name;
        blocks in the model's order, the worst kinds first
    """

    windows: int
    length: int
    texts: tuple[str, ...]
    whole: float
    outside: float
    blocks: dict[str, float]
    kinds: dict[str, float]
    suggestions: tuple[Suggestion, ...]
    drift: DriftResult
    notes: tuple[str, ...] = ()

    def measurements(self) -> list[Measurement]:
        """None: no policy judges it."""
        return []

    def to_dict(self) -> dict[str, object]:
        parts = {
            key: [{"name": name, "kl": kl} for name, kl in getattr(self, key).items()]
            for key in ("blocks", "kinds")
        }
        return {**to_json(self), **parts, "drift": self.drift.to_dict()}


def with_damage(result: AttributionResult, damaged: Sequence[str]) -> AttributionResult:
    """The result for a checkpoint with the `damaged` tensors, each as text.

    16-bit parts or other groups would hide the damage: the suggestions name it instead.
    """
    fix = "write the checkpoint again, or fetch it again"
    suggestions = tuple(Suggestion(f"{each}; {fix}") for each in damaged)
    return replace(result, suggestions=suggestions)
