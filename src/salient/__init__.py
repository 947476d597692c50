"""Salient: 4-bit AWQ checkpoints with measured quality, and fast ways to run them.

    import salient

    salient.quantize("smollm2-135m", "out", scheme="w4-g64")
    salient.validate("out", reference="smollm2-135m")

The verbs are defined in `salient.api`; none imports torch before it runs. `plan`, `serve` and
`validate` are both packages and verbs: calling the package calls the verb.
"""

import sys
from inspect import signature
from types import ModuleType

from . import api
from .api import *  # noqa: F403
from .api import __all__ as __all__
from .core.version import __version__ as __version__


class _VerbPackage(ModuleType):
    """A package that is called as the verb of its name."""

    def __call__(self, *args: object, **options: object) -> object:
        return getattr(api, self.__name__.rpartition(".")[2])(*args, **options)


for _name in __all__:
    if _package := sys.modules.get(f"{__name__}.{_name}"):
        _package.__class__ = _VerbPackage
        _package.__dict__["__signature__"] = signature(getattr(api, _name))
        globals()[_name] = _package
