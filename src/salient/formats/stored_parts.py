"""Which tensors of a checkpoint are the parts of one quantized parameter.

A layout of values has MARKERS, endings that mark a quantized parameter, and PARTS, all endings of
its tensors, both appended to the parameter's name (`_scale_inv` to `x.weight`); SIBLINGS are
appended to the module's name (`SCB` to `x`). A layout of codes has SUFFIXES of the module's.
"""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from salient.core.errors import CheckpointError, SalientError
from salient.core.scheme import Scheme

from . import Format, load_format

Parts = dict[str, str]  # part -> the name of its tensor


@dataclass(frozen=True)
class StoredLinear:
    """A quantized parameter: its name, what config.json declares, and its scheme of codes."""

    name: str
    settings: Mapping[str, object]
    scheme: Scheme | None = None

    def misfit(self, tensors: Mapping[str, Tensor], more: str = "") -> CheckpointError:
        """The error for `tensors` that are not as the layout has them."""
        forms = ", ".join(
            f"{part.lstrip('._') or 'weight'} {str(tensor.dtype).removeprefix('torch.')} "
            f"{list(tensor.shape)}"
            for part, tensor in tensors.items()
        )
        return CheckpointError(
            f"{self.name!r} is stored as {forms}{f', {more}' if more else ''}: "
            "quantization_config does not describe these tensors. Correct config.json, or fetch "
            "the checkpoint again."
        )


@contextmanager
def layout_errors(linear: StoredLinear, tensors: Mapping[str, Tensor]) -> Generator[None]:
    """Turn what PyTorch raises for tensors of other shapes and types into a CheckpointError."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(
            f"{linear.name!r} has no tensor {error!s}: the checkpoint is incomplete, fetch or "
            "write it again."
        ) from error
    except (RuntimeError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        if isinstance(error, SalientError):
            raise
        raise linear.misfit(tensors) from error


def stored_parts(form: Format, names: Iterable[str]) -> dict[str, Parts]:
    """Quantized parameter -> its tensors by part, of the tensors called `names`."""
    present = dict.fromkeys(names)
    code = load_format(form.name)
    siblings: tuple[str, ...] = code.SUFFIXES if form.codes else code.SIBLINGS
    parts: tuple[str, ...] = () if form.codes else code.PARTS
    markers: tuple[str, ...] = (form.suffix,) if form.codes else code.MARKERS
    quantized: dict[str, Parts] = {}
    for name in present:
        marker = next((ending for ending in markers if name.endswith(ending)), None)
        if marker is None:
            continue
        home, _, last = name.rpartition(".")
        if marker in siblings:
            if last != marker:
                continue
            parameter = f"{home}.weight"
        else:
            parameter = name.removesuffix(marker)
        if parameter in quantized:
            continue
        if not form.codes and not any(parameter + base in present for base in code.BASES):
            continue
        module = parameter.removesuffix(".weight")
        places = {part: parameter + part for part in parts}
        places |= {part: f"{module}.{part}" for part in siblings}
        quantized[parameter] = {part: place for part, place in places.items() if place in present}
    return quantized
