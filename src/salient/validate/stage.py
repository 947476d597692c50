"""What every stage of a validation returns: a typed result, or the reason why there is none."""

from dataclasses import dataclass
from typing import Protocol

from salient.validate.policy.policy import THRESHOLDS
from salient.validate.policy.verdict import ALL, Measurement


class StageResult(Protocol):
    """The result of one stage."""

    def to_dict(self) -> dict[str, object]:
        """The stage's part of the JSON document."""
        ...

    def measurements(self) -> list[Measurement]:
        """The figures that a policy judges."""
        ...


@dataclass(frozen=True)
class UnmeasuredStage:
    """A stage that could not be measured: the policy's rules on it stay undecided.

    kinds: kinds of task examples whose own rules stay undecided, too
    """

    stage: str
    reason: str
    kinds: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        return {"error": self.reason}

    def measurements(self) -> list[Measurement]:
        measures = dict.fromkeys(t.what for t in THRESHOLDS if t.stage == self.stage)
        return [
            Measurement(self.stage, measure, None, kind, why=self.reason)
            for measure in measures
            for kind in dict.fromkeys([ALL, *self.kinds])
        ]

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        return f"{self.stage.capitalize()} could not be measured: {self.reason}"
