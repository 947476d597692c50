"""Bounded reads of tensors by the byte ranges of their headers, with a common progress."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from salient.core.errors import CheckpointError
from salient.core.input_files import open_input
from salient.core.model_files import StoredTensor
from salient.core.progress import Progress, silent

PIECE = 4 * 2**20  # bytes in memory at a time


class TensorReader(ExitStack):
    """Open files of a checkpoint, closed at the end of its `with`."""

    def __init__(self, progress: Progress = silent) -> None:
        super().__init__()
        self._progress = progress
        self._open: dict[Path, BinaryIO] = {}
        self._done = 0
        self._shown = 0
        self.total = 0  # bytes to read in all, as far as is known

    def read(self, tensor: StoredTensor, offset: int = 0, count: int | None = None) -> bytes:
        """`count` bytes of a tensor from `offset` on, at most to its end.

        Raises CheckpointError where the file cannot be read.
        """
        left = max(tensor.bytes - offset, 0)
        count = left if count is None else min(count, left)
        try:
            if tensor.path not in self._open:
                self._open[tensor.path] = self.enter_context(open_input(tensor.path))
            file = self._open[tensor.path]
            file.seek(tensor.start + offset)
            data = file.read(count)
        except OSError as error:
            raise CheckpointError(
                f"{tensor.path} cannot be read ({error}). Check the disk, or fetch the file again."
            ) from error
        if len(data) != count:
            raise CheckpointError(
                f"{tensor.path} ends inside {tensor.name!r}: it was cut while it was read. Wait "
                "until its writer is done."
            )
        self._done += count
        return data

    def pieces(self, tensor: StoredTensor) -> Iterator[tuple[int, bytes]]:
        """The whole tensor, at most PIECE bytes at a time, each with its offset."""
        for offset in range(0, tensor.bytes, PIECE):
            yield offset, self.read(tensor, offset, PIECE)

    def show_progress(self, action: str, note: str = "") -> None:
        """Report the bytes read, at most once a MiB."""
        if self._done - self._shown >= 2**20 or self._done == 0:
            self._shown = self._done
            self._progress(min(self._done, self.total), self.total, action, note)

    def end(self) -> None:
        self._progress(self.total, self.total, "read")
