"""Options of the verbs: one frozen dataclass for each, read by Python and by the command line.

@dataclass(frozen=True)
class PlanOptions:
    model: Annotated[StrPath, OptionSpec("A folder or a Hub id.", positional=True)]
    _: KW_ONLY
    vram: Annotated[float | None, OptionSpec("GiB of an unknown device.", minimum=0)] = None

@with_options(PlanOptions)
def plan(options: PlanOptions) -> PlanResult: ...

plan("folder", vram=24)          # what callers and type checkers see
salient plan folder --vram 24    # cli/options.py
"""

import functools
import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from .errors import RequestError
from .records import is_sequence
from .remote_code import remote_code

StrPath = str | os.PathLike[str]
Strings = str | Sequence[str]
Quantity = Literal["memory", "tokens"]
PATH_TYPE = os.PathLike[str]

P = ParamSpec("P")
Record = TypeVar("Record")
Result = TypeVar("Result")


@dataclass(frozen=True)
class OptionSpec:
    """How the command line shows a field of an options record. Fields without it are Python's only.

    alias: a second spelling, such as -o or --tp
    positional: an argument without a name
    separator: what separates several values in one string; '': the option is repeated
    off: the string that stands for None
    env: the environment variable that is read where the option is absent
    quantity: what a text with a unit means: "24GB" of memory is 24 GiB, "128k" tokens are 131072
    """

    help: str
    alias: str = ""
    positional: bool = False
    separator: str = ""
    off: str = ""
    env: str = ""
    minimum: float | None = None
    maximum: float | None = None
    quantity: Quantity | None = None


DEVICE = OptionSpec("auto, cpu, cuda, cuda:1, ...")
ACTIVATION_DTYPE = OptionSpec("Type of the activations: auto, float32, bfloat16, float16.")
CONTEXT_LENGTH = OptionSpec(
    "Maximum tokens of a prompt and its answer together.", minimum=1, quantity="tokens"
)
TRUST_REMOTE_CODE = OptionSpec(
    "Run the model's own Python code, with all your rights: use a container without network."
)
TENSOR_PARALLEL = OptionSpec("Tensor-parallel size.", alias="--tp", minimum=1, maximum=1024)


@dataclass(frozen=True)
class OptionField:
    """A field of an options record: its type without `Annotated`, and its default."""

    name: str
    type: Any
    option: OptionSpec
    default: Any

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def spelling(self) -> str:
        return "--" + self.name.replace("_", "-")


@functools.cache
def option_fields(record: type) -> tuple[OptionField, ...]:
    """The options of `record`: those of its own class, then the inherited ones."""
    hints = get_type_hints(record, include_extras=True)
    own = inspect.get_annotations(record)
    return tuple(
        OptionField(each.name, *get_args(hints[each.name])[:2], default=each.default)
        for each in sorted(fields(record), key=lambda each: each.name not in own)
        if get_origin(hints[each.name]) is Annotated
    )


def with_options(
    record: Callable[P, Record],
) -> Callable[[Callable[[Record], Result]], Callable[P, Result]]:
    """Turn a function of an options record into a function of the record's own parameters.

    Editors and type checkers read names, types and defaults from the record, so that each option
    is declared once. The function raises RequestError for a number out of an option's bounds. Its
    `options_record` is the record.
    """

    def decorate(function: Callable[[Record], Result]) -> Callable[P, Result]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            options = with_home(record(*args, **kwargs))
            check_bounds(options)
            with remote_code(allowed=getattr(options, "trust_remote_code", False)):
                return function(options)

        signature = inspect.signature(record)
        returned = inspect.signature(function).return_annotation
        call.__dict__["__signature__"] = signature.replace(return_annotation=returned)
        call.__dict__["options_record"] = record
        return call

    return decorate


def with_home(options: Record) -> Record:
    """`options` with the user's home folder in place of ~ in every path."""
    paths: dict[str, str] = {}
    for field in option_fields(type(options)):
        value = getattr(options, field.name)
        if isinstance(value, (str, os.PathLike)) and PATH_TYPE in get_args(field.type):
            paths[field.name] = os.path.expanduser(os.fspath(value))
    changed = {n: path for n, path in paths.items() if path != os.fspath(getattr(options, n))}
    return replace(cast(Any, options), **changed) if changed else options


def check_bounds(options: object) -> None:
    """Raise RequestError for the first number that is out of its option's bounds."""
    for field in option_fields(type(options)):
        least, most = field.option.minimum, field.option.maximum
        value = getattr(options, field.name)
        for number in value if is_sequence(value) else (value,):
            if not isinstance(number, (int, float)):
                continue
            if (least is not None and not number >= least) or (most is not None and number > most):
                bounds = f"at least {least}" if most is None else f"{least or 0} to {most}"
                raise RequestError(f"{field.spelling} {number} is out of range: give {bounds}.")


# unit -> GiB: a card's "24 GB" are GiB
_MEMORY_UNITS = {"": 1.0, "g": 1.0, "gb": 1.0, "gib": 1.0, "m": 2**-10, "mb": 2**-10, "mib": 2**-10,
                 "t": 2.0**10, "tb": 2.0**10, "tib": 2.0**10}  # fmt: skip
_TOKEN_UNITS = {"": 1.0, "k": 2.0**10, "ki": 2.0**10, "m": 2.0**20, "mi": 2.0**20}
_QUANTITIES: dict[Quantity, tuple[dict[str, float], str]] = {
    "memory": (_MEMORY_UNITS, "in GiB, such as 24, 24GB or 24576MiB"),
    "tokens": (_TOKEN_UNITS, "of tokens, such as 131072 or 128k"),
}


def parse_quantity(text: str, quantity: Quantity, spelling: str) -> float:
    """The number of "24GB" (24.0, in GiB) or "128k" (131072.0), for the option `spelling`.

    Raises RequestError for anything else.
    """
    units, examples = _QUANTITIES[quantity]
    plain = text.strip().lower().replace("_", "").replace(",", "")
    number = re.fullmatch(
        r"([+-]?(?:\d{1,18}(?:\.\d{0,6})?|\.\d{1,6}|nan|inf))\s*([a-z]*)", plain, re.A
    )
    unit = "" if number and number[1].strip("+-") in ("nan", "inf") else number and number[2]
    if not number or unit not in units:
        raise RequestError(f"{spelling} {text[:80]!r} is not a number {examples}.")
    return float(number[1]) * units[unit]


def strings(values: Strings | None) -> tuple[str, ...]:
    """One string or several as a tuple."""
    return (values,) if isinstance(values, str) else tuple(values or ())


def numbers(values: int | Sequence[int]) -> tuple[int, ...]:
    """One number or several as a tuple."""
    return (values,) if isinstance(values, int) else tuple(values)
