"""No type of the public surface is `Any`: neither in a verb's signature nor in what it returns."""

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args, get_type_hints

import pytest

import salient
from salient import api


@cache
def type_checking_imports(module: str) -> dict[str, object]:
    """What `module` imports under `if TYPE_CHECKING`, by name."""
    code = importlib.import_module(module)
    blocks = [
        node
        for node in ast.parse(inspect.getsource(code)).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    names = {}
    for node in (node for block in blocks for node in block.body):
        assert isinstance(node, ast.ImportFrom)
        source = importlib.import_module("." * node.level + (node.module or ""), code.__package__)
        names |= {alias.asname or alias.name: getattr(source, alias.name) for alias in node.names}
    return names


def type_hints(subject: Any) -> dict[str, Any]:
    names: dict[str, object] = {}
    for each in getattr(subject, "__mro__", [subject]):
        if each.__module__.startswith("salient."):
            names |= type_checking_imports(each.__module__)
    return get_type_hints(subject, localns=names or None, include_extras=True)


def parts(hint: Any) -> Iterator[Any]:
    """A hint and everything inside its brackets."""
    yield hint
    for argument in get_args(hint):
        for each in argument if isinstance(argument, list) else [argument]:
            yield from parts(each)


def public_hints(cls: type) -> Iterator[tuple[str, Any]]:
    """The types of the public fields, properties and methods of `cls`, by name."""
    if dataclasses.is_dataclass(cls):
        hints = type_hints(cls)
        yield from ((f.name, hints[f.name]) for f in dataclasses.fields(cls))
    for name, member in vars(cls).items():
        function = member.fget if isinstance(member, property) else inspect.unwrap(member)
        function = getattr(function, "__func__", function)
        if inspect.isfunction(function) and not name.startswith("_"):
            yield from ((f"{name}({k})", hint) for k, hint in type_hints(function).items())


def untyped(place: str, hint: Any, recorded: set[type]) -> list[str]:
    """The places, from `place` on, whose type has `Any`. `seen`: classes that were visited."""
    faults = [f"{place}: {hint}"] if Any in parts(hint) else []
    for part in parts(hint):
        ours = inspect.isclass(part) and part.__module__.startswith("salient.")
        if ours and part not in recorded:
            recorded.add(part)
            for name, member in public_hints(part):
                if not name.startswith("_"):
                    faults += untyped(f"{part.__name__}.{name}", member, recorded)
    return faults


@pytest.mark.parametrize("name", sorted(salient.__all__))
def test_no_public_type_is_any(name):
    subject = getattr(api, name)
    subject = inspect.unwrap(subject) if inspect.isroutine(subject) else subject
    classes = {"": subject if inspect.isclass(subject) else type(subject)}
    hints = type_hints(subject) if inspect.isfunction(subject) else classes
    faults = [f for place, hint in hints.items() for f in untyped(f"{name}({place})", hint, set())]
    assert not faults, "\n".join(faults)


def test_the_walk_sees_an_untyped_field_of_a_nested_record():
    @dataclasses.dataclass
    class Inner:
        data: dict[str, Any]

    class Outer:
        def inners(self) -> list[Inner]: ...

    Inner.__module__ = Outer.__module__ = "salient.core.version"
    assert untyped("Outer", Outer, set()) == ["Inner.data: dict[str, typing.Any]"]
