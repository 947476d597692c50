"""Hidden states at the input of every block, in a file: the backward pass reads them again.

The file has no name (it is unlinked at once), so that nothing is left over whatever ends the run;
it is read and written, not mapped, so that it does not count as the process's memory.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from salient.core.errors import ResourceError
from salient.core.report import mebibytes


class ActivationStore:
    """Tensors of the given `shapes`, the same at each of `places`, on the disk of `folder`.

    Raises ResourceError if the disk has no room for all.
    """

    def __init__(
        self, folder: Path, places: int, shapes: Sequence[Sequence[int]], dtype: torch.dtype
    ):
        self._shapes, self._dtype = [tuple(shape) for shape in shapes], dtype
        sizes = [int(np.prod(shape)) * dtype.itemsize for shape in self._shapes]
        self._starts = [0, *np.cumsum(sizes).tolist()]
        total = places * self._starts[-1]
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (close frees it)
        try:
            os.posix_fallocate(self._file.fileno(), 0, max(total, 1))
        except OSError as error:
            self._file.close()
            raise ResourceError(
                f"The hidden states between the blocks need {mebibytes(total)} of disk in "
                f"{folder} ({error.strerror}). Free that much, lower --samples, write to another "
                "disk with -o, or use --effort fast, which stores none."
            ) from error

    def write(self, place: int, number: int, value: Tensor) -> None:
        """Store `value` as tensor `number` at `place`."""
        content = _bytes_of(value.detach().to("cpu", self._dtype).contiguous())
        offset = self._offset(place, number)
        while content:
            written = os.pwrite(self._file.fileno(), content, offset)
            content, offset = content[written:], offset + written

    def read(self, place: int, number: int) -> Tensor:
        """Tensor `number` at `place`, on the CPU."""
        shape = self._shapes[number]
        value = torch.empty(shape, dtype=self._dtype)
        content = _bytes_of(value)
        offset = self._offset(place, number)
        while content:
            count = os.preadv(self._file.fileno(), [content], offset)
            content, offset = content[count:], offset + count
        return value

    def close(self) -> None:
        """Free the disk."""
        self._file.close()

    def _offset(self, place: int, number: int) -> int:
        return place * self._starts[-1] + self._starts[number]


def _bytes_of(value: Tensor) -> memoryview:
    """The memory of `value`, contiguous on the CPU."""
    content: Any = value.view(torch.uint8).numpy().reshape(-1)
    return memoryview(content)
