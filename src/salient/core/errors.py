"""Every error that Salient raises for its user.

SalientError
    ModelError            a model folder, its config or its tensors cannot be used
        ShapeError        a layer's width does not fit the scheme
    CalibrationError      texts that cannot calibrate or evaluate
    CheckpointError       a quantized checkpoint, or a half-written one, cannot be used
        ResumeMismatch    an unfinished run was started with other arguments
    ResourceError         memory or disk does not suffice
    MissingExtra          an optional dependency is not installed
    RequestError          a request or an option that cannot be fulfilled

Each message states the fault, what is valid, and the next step. The command line prints the
message alone and exits with 2.
"""

import reprlib
import textwrap
from collections.abc import Generator
from contextlib import contextmanager


class SalientError(Exception):
    """Base of all errors meant for the user."""


class ModelError(SalientError):
    """A model folder, its config or its tensors cannot be used."""


class ShapeError(ModelError):
    """A layer's width does not fit the scheme."""


class CalibrationError(SalientError):
    """Texts that cannot calibrate or evaluate."""


class CheckpointError(SalientError):
    """A quantized checkpoint, or a half-written one, cannot be used."""


class ResumeMismatch(CheckpointError):
    """An unfinished run was started with other arguments."""


class ResourceError(SalientError):
    """Memory or disk does not suffice."""


class MissingExtra(SalientError):
    """An optional dependency is not installed."""


class RequestError(SalientError):
    """A request or an option that cannot be fulfilled."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = 80  # letters
RUST_PANIC = "PanicException"  # of the tokenizers library; no Exception


def one_line(error: BaseException) -> str:
    """An error's message, shortened, on one line; its class if it has no message."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001, an error whose text fails, too
        text = ""
    return textwrap.shorten(text, 300, placeholder=" ...") or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether main memory or a GPU's memory ran out."""
    names = {kind.__name__ for kind in type(error).__mro__}
    # PyTorch's allocator of the CPU raises RuntimeError
    texts = ("not enough memory", "can't allocate memory", "std::bad_alloc")
    return not names.isdisjoint({"MemoryError", "OutOfMemoryError"}) or any(
        text in str(error) for text in texts
    )


def brief(value: object) -> str:
    """`value` in a few characters."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"a {type(value).__name__} too long to show"


@contextmanager
def library_errors(
    fault: str, advice: str, kind: type[SalientError] = ModelError
) -> Generator[None]:
    """Turn every exception of a library into `kind`: the fault, its reason, the advice.

    Memory that does not suffice is a ResourceError. Errors of Salient pass.
    """
    try:
        yield
    except SalientError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != RUST_PANIC:
            raise
        if is_out_of_memory(error):
            raise ResourceError(
                f"{fault}: memory does not suffice ({one_line(error)}). Use a machine with more."
            ) from error
        name, reason = type(error).__name__, one_line(error)
        detail = reason if name in (reason, "Exception") else f"{name}: {reason}"
        raise kind(f"{fault} ({detail}). {advice}") from error
