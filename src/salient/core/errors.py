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
