"""Whether code of a model folder may run: only inside a verb whose user allowed it."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_allowed = ContextVar("trust_remote_code", default=False)


def is_remote_code_allowed() -> bool:
    """The value of `trust_remote_code` for every call of Transformers."""
    return _allowed.get()


@contextmanager
def remote_code(*, allowed: bool) -> Generator[None]:
    """Allow code of model folders inside, in this thread only."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)
