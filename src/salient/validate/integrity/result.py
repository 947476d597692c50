"""What the integrity stage returns: tensors that rounding cannot explain, and where that is known
from."""

from dataclasses import dataclass

from salient.core.records import to_json
from salient.validate.policy.verdict import Measurement, RuleResult

STAGE = "integrity"


@dataclass(frozen=True)
class DamagedTensor:
    """A tensor, linear or norm of the checkpoint that is not a rounding of the reference's."""

    name: str
    reason: str

    @property
    def summary(self) -> str:
        """One line for the terminal and for rules."""
        return f"damaged: {self.name}: {self.reason}"


@dataclass(frozen=True)
class IntegrityResult:
    """The checkpoint's tensors against the digests of its salient.json and against the reference.

    digests: what the digests show   compared: linears whose weights were compared
    unjudged: why the weights were not judged, '' if they were
    """

    digests: str
    compared: int
    damaged: tuple[DamagedTensor, ...] = ()
    unjudged: str = ""

    @property
    def names(self) -> list[str]:
        """The damaged tensors."""
        return [each.name for each in self.damaged]

    @property
    def lines(self) -> list[str]:
        """The stage in the terminal."""
        if self.unjudged:
            return [f"Integrity of the weights is not judged: {self.unjudged}"]
        if self.damaged:
            return [each.summary for each in self.damaged]
        return [f"Integrity: {self.compared} linears are roundings of the reference's weights."]

    def to_dict(self) -> dict[str, object]:
        return dict(to_json(self))

    def measurements(self) -> list[Measurement]:
        """None: damage fails whatever the policy's thresholds are (`failed_rules`)."""
        return []

    def failed_rules(self) -> list[RuleResult]:
        """A rule that does not hold for each damaged tensor."""
        return [
            RuleResult(
                STAGE,
                "damaged",
                each.name,
                1.0,
                None,
                0.0,
                "at most",
                "tensors",
                passed=False,
                reason=f"{each.reason}; write the checkpoint again, or fetch it again",
            )
            for each in self.damaged
        ]
