"""From a record of options to the command line: spellings, and strings as Python values."""

from collections.abc import Sequence
from inspect import Parameter as Argument
from inspect import Signature
from typing import Annotated, Any, Literal, get_args, get_origin

from cyclopts import Parameter

from salient.core.errors import RequestError
from salient.core.options import OptionField, option_fields, parse_quantity
from salient.core.records import is_sequence

# Spellings of earlier versions, and what replaces them.
RENAMED = {
    "--batch": "Use --concurrency.",
    "--context": "Use --context-length.",
    "--contexts": "Use --context-lengths.",
    "--max-concurrency": "Use --concurrency.",
    "--max-context": "Use --context-length.",
    "--new-tokens": "Use --max-new-tokens.",
    "--prompt": "Use --prompt-tokens.",
    "--resume": "Resuming is the default; --fresh starts over.",
    "--window-length": "Use --sequence-length.",
    "--windows": "Use --samples.",
}


JSON_HELP = "Print one JSON document instead of tables."
JSON = Annotated[bool, Parameter(name="--json", negative=(), show_default=False, help=JSON_HELP)]


def signature(record: type, *, json: bool) -> Signature:
    """The parameters of a command with the options of `record`, and --json, for cyclopts."""
    arguments = [_argument(field) for field in option_fields(record)]
    if json:
        arguments.append(Argument("json", Argument.KEYWORD_ONLY, default=False, annotation=JSON))
    return Signature(sorted(arguments, key=lambda argument: argument.kind))


def python_value(field: OptionField, value: Any) -> Any:
    """What the command line gives for `field`, as Python takes it. Raises RequestError."""
    option = field.option
    texts = value if is_sequence(value) else [value]
    if option.off and option.off in texts:
        if others := ", ".join(text for text in texts if text != option.off):
            raise RequestError(
                f"{field.spelling} {option.off} cannot be combined with: {others[:200]}."
            )
        return None
    if is_sequence(value):
        return tuple(texts)
    if isinstance(value, str) and option.quantity:
        number = parse_quantity(value, option.quantity, field.spelling)
        return _whole(field, number, value) if int in members(field) else number
    if not isinstance(value, str) or not option.separator or value in literals(field):
        return value
    parts = [part.strip() for part in value.split(option.separator) if part.strip()]
    return _whole_numbers(field, value, parts) if int in members(field) else tuple(parts)


def _whole(field: OptionField, number: float, text: str) -> int:
    if not number.is_integer():
        raise RequestError(f"{field.spelling} {text[:80]!r} is not a whole number of tokens.")
    return int(number)


def _whole_numbers(field: OptionField, text: str, parts: Sequence[str]) -> tuple[int, ...]:
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        others = "".join(f" or {word}" for word in (*literals(field), field.option.off) if word)
        raise RequestError(
            f"{field.spelling} {text[:80]!r} is not a list of numbers. Give one like 1,4,8{others}."
        )
    return tuple(int(part[:18]) for part in parts)


def members(field: OptionField) -> tuple[Any, ...]:
    """The types of a union, or the only type."""
    return (field.type, *get_args(field.type))


def literals(field: OptionField) -> tuple[str, ...]:
    """The words that stand for themselves, such as 'auto'."""
    return tuple(
        w for kind in members(field) if get_origin(kind) is Literal for w in get_args(kind)
    )


def is_repeated(field: OptionField) -> bool:
    """Whether the command line takes the option more than once."""
    return not field.option.separator and any(
        get_origin(kind) is Sequence for kind in members(field)
    )


def default_text(field: OptionField) -> str | None:
    """The default as the command line spells it; None where there is none to show."""
    value, option = field.default, field.option
    if isinstance(value, bool) or field.required or value in (None, (), ""):
        return option.off or None
    texts = value if is_sequence(value) else [value]
    return option.separator.join(map(str, texts))


def value_name(field: OptionField) -> str:
    """How help names the value: INT, FLOAT, TEXT, or a list of one; '' for a flag."""
    names = {int: "INT", float: "FLOAT", bool: ""}
    name = next((names[kind] for kind in names if kind in members(field)), "TEXT")
    return f"{name}{field.option.separator}..." if field.option.separator else name


def _argument(field: OptionField) -> Argument:
    """The option as cyclopts takes it. Optional, so that it passes on only what was typed."""
    option, positional = field.option, field.option.positional
    shape = next((kind for kind in (bool, int, float) if kind in members(field)), str)
    shape = (
        str if option.separator or option.quantity else list[str] if is_repeated(field) else shape
    )
    no = f"--no-{field.spelling[2:]}" if field.default is True else ()
    parameter = Parameter(
        name=None if positional else [field.spelling, *([option.alias] if option.alias else [])],
        help=option.help,
        env_var=option.env or None,
        metavar=None if positional else value_name(field) or None,
        negative=no,
        show_default=lambda _: default_text(field),
        allow_leading_hyphen=not positional,
        allow_repeating=True,
    )
    annotation = Annotated[shape if field.required else shape | None, parameter]
    if positional and is_repeated(field):
        annotation = Annotated[str, parameter]
        return Argument(field.name, Argument.VAR_POSITIONAL, annotation=annotation)
    kind = Argument.POSITIONAL_ONLY if positional else Argument.KEYWORD_ONLY
    default = Argument.empty if field.required else None
    return Argument(field.name, kind, default=default, annotation=annotation)
