"""One vocabulary: the command line and the functions of `salient.api` have the same words."""

import inspect
import re

import pytest
import typer

from salient import api
from salient.cli import app
from salient.core import errors

COMMANDS = typer.main.get_command(app).commands
ONLY_IN_COMMANDS = {"json"}  # how a report is printed
ONLY_IN_FUNCTIONS = {"progress", "heard"}  # how a command line shows it


def function_of(command: str):
    return getattr(api, command.replace("-", "_"))


def words_of(command: str) -> dict:
    return {p.name: p for p in COMMANDS[command].params if p.name not in ONLY_IN_COMMANDS}


def parameters_of(command: str) -> dict[str, inspect.Parameter]:
    found = inspect.signature(function_of(command)).parameters
    return {name: p for name, p in found.items() if name not in ONLY_IN_FUNCTIONS}


def test_there_are_commands():
    assert {"quantize", "inspect", "evaluate"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_the_words_of_its_function_and_no_others(command):
    assert list(words_of(command)) == list(parameters_of(command))


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_is_spelled_as_its_parameter_with_dashes(command):
    for name, word in words_of(command).items():
        if word.param_type_name == "option":
            assert "--" + name.replace("_", "-") in word.opts


@pytest.mark.parametrize("command", COMMANDS)
def test_a_word_has_the_same_default_in_both(command):
    for name, parameter in parameters_of(command).items():
        word = words_of(command)[name]
        if parameter.default is inspect.Parameter.empty:
            assert word.required, name
        elif parameter.default == ():
            assert not word.required, name
            assert not word.default, name
        else:
            assert word.default == parameter.default, name


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_and_each_of_its_words_says_what_it_is(command):
    assert COMMANDS[command].help
    assert function_of(command).__doc__
    for name, word in words_of(command).items():
        assert word.help, name


@pytest.mark.parametrize("command", COMMANDS)
def test_choices_of_a_function_are_given_by_name(command):
    kinds = [p.kind for p in inspect.signature(function_of(command)).parameters.values()]
    assert all(kind == inspect.Parameter.KEYWORD_ONLY for kind in kinds[2:])


# Errors


CLASSES = [
    c for c in vars(errors).values() if isinstance(c, type) and c.__module__ == errors.__name__
]


def drawn() -> dict[str, str]:
    """Error name -> name of the error it is drawn under, in the tree of the module's docstring."""
    tree, above = {}, []
    for line in errors.__doc__.splitlines():
        if found := re.match(r"( *)([A-Z]\w+)(?:  +\S.*)?$", line):
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            tree[found[2]] = above[depth - 1] if depth else "Exception"
    return tree


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_every_error_is_drawn_in_the_tree_under_its_base(error):
    assert drawn()[error.__name__] == error.__bases__[0].__name__


def test_the_tree_draws_no_error_that_is_not_there():
    assert set(drawn()) == {error.__name__ for error in CLASSES}


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_every_error_is_of_one_tree_and_says_what_it_means(error):
    assert issubclass(error, errors.SalientError)
    assert error.__doc__.endswith(".")
