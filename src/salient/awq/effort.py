"""How much work a run does for its rounding: one dial, `--effort`. Imports no torch."""

from dataclasses import dataclass

from salient.core.errors import RequestError

LABELS = 2**16  # sampled for all calibration tokens together, where an effort draws several each


@dataclass(frozen=True)
class Effort:
    """A position of the dial.

    gradients: whether rounding errors are weighed by the end loss (fisher.py), with a backward pass
    reconstruction_steps: of each block on the quantized stream (block_reconstruction.py); 0: none
    most_draws: labels sampled for each calibration token at most
    """

    name: str
    gradients: bool
    reconstruction_steps: int
    most_draws: int = 1

    def draws(self, tokens: int) -> int:
        """The labels sampled for each of `tokens` calibration tokens.

        One each, with its gradient, is a noisy sample of the Fisher information; with few tokens
        the noise costs more than with many.
        """
        return max(1, min(self.most_draws, LABELS // max(tokens, 1)))


EFFORTS = {
    effort.name: effort
    for effort in (
        Effort("fast", gradients=False, reconstruction_steps=0),
        Effort("balanced", gradients=True, reconstruction_steps=0),
        Effort("best", gradients=True, reconstruction_steps=60, most_draws=4),
    )
}
DEFAULT_EFFORT = "balanced"


def find_effort(name: str) -> Effort:
    """The effort called `name`. Raises RequestError listing the known ones."""
    if name not in EFFORTS:
        raise RequestError(f"Unknown --effort {name!r}. Known efforts: {', '.join(EFFORTS)}.")
    return EFFORTS[name]
