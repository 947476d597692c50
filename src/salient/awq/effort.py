"""How much work a run does for its rounding: one dial, `--effort`. Imports no torch."""

from dataclasses import dataclass

from salient.core.errors import RequestError


@dataclass(frozen=True)
class Effort:
    """A position of the dial.

    gradients: whether rounding errors are weighed by the end loss (fisher.py), with a backward pass
    reconstruction_steps: of each block on the quantized stream (block_reconstruction.py); 0: none
    """

    name: str
    gradients: bool
    reconstruction_steps: int


EFFORTS = {
    effort.name: effort
    for effort in (
        Effort("fast", gradients=False, reconstruction_steps=0),
        Effort("balanced", gradients=True, reconstruction_steps=0),
        Effort("best", gradients=True, reconstruction_steps=60),
    )
}
DEFAULT_EFFORT = "balanced"


def find_effort(name: str) -> Effort:
    """The effort called `name`. Raises RequestError listing the known ones."""
    if name not in EFFORTS:
        raise RequestError(f"Unknown --effort {name!r}. Known efforts: {', '.join(EFFORTS)}.")
    return EFFORTS[name]
