"""How a text is cut for a model that sees a window at a time, and which tokens count.

Each token counts once. In the first window all do; in each later one those that no earlier window
had, and the tokens before them in the window are context alone. Windows side by side (a stride of
their own length) are the protocol of the published tables (GPTQ, AWQ: 2048 and 2048); a shorter
stride gives every counted token at least `window - stride` tokens of context, and a lower figure.
Tokens at the end that fill no whole stride are left out.
"""

from dataclasses import dataclass

from torch import Tensor

from salient.core.errors import CalibrationError


@dataclass(frozen=True)
class Protocol:
    """Windows of `window` tokens, each `stride` tokens after the one before."""

    window: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window:
            raise CalibrationError(
                f"--stride {self.stride} does not fit windows of {self.window} tokens: give 1 to "
                f"{self.window}; {self.window} puts them side by side."
            )

    @property
    def words(self) -> str:
        """The protocol for people."""
        if self.stride == self.window:
            return f"windows of {self.window} tokens, side by side"
        least = self.window - self.stride
        return (
            f"windows of {self.window} tokens, each {self.stride} after the one before: every "
            f"token counts once, with at least {least} before it"
        )

    def windows(self, ids: Tensor) -> Tensor:
        """The windows of a text: [tokens] -> [count, window]."""
        return ids.unfold(0, self.window, self.stride)

    def counted(self, number: int) -> int:
        """The position in window `number` from which on its tokens are predicted and counted."""
        return 0 if number == 0 or self.stride == self.window else self.window - self.stride - 1


# What published tables were measured with (GPTQ, arXiv 2210.17323, and AWQ, arXiv 2306.00978: all
# of WikiText-2's test part in windows of 2048), and one with more context.
PROTOCOLS = {"classic": Protocol(2048, 2048), "sliding": Protocol(2048, 512)}
