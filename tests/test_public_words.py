"""The public surface: one options record for each verb, in Python and on the command line."""

import inspect
import re
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import salient
from helpers.cli import invoke
from salient import api
from salient.cli.options import RENAMED, default_text, python_value, signature
from salient.cli.verb_commands import COMMANDS
from salient.core import errors
from salient.core.errors import RequestError
from salient.core.options import option_fields

ROOT = Path(__file__).parents[1]
VERBS = {command.name: command for command in COMMANDS}
# Fields of the records that only Python takes: how a command line shows the verb.
CALLBACKS = {"progress", "on_finding", "on_event", "on_text"}
OPTIONS = [
    (name, field) for name, command in VERBS.items() for field in option_fields(command.options)
]


def test_every_verb_with_options_is_a_command():
    assert {name.replace("-", "_") for name in VERBS} == set(api.OPTIONS) - {"load_engine"}
    assert set(api.OPTIONS) <= set(salient.__all__)


@pytest.mark.parametrize("name", VERBS)
def test_a_command_has_the_options_of_its_function(name):
    command = VERBS[name]
    parameters = set(inspect.signature(command.verb).parameters) - CALLBACKS
    arguments = set(signature(command.options, json=False).parameters)
    assert arguments == parameters == {field.name for field in fields(command.options)} - CALLBACKS


@pytest.mark.parametrize("name", VERBS)
def test_the_help_shows_every_option_and_its_default(name):
    result = invoke(name, "--help")
    text = " ".join(result.stdout.replace("│", " ").split())
    assert (result.exit_code, result.stderr) == (0, "")
    for field in option_fields(VERBS[name].options):
        shown = field.name.upper() if field.option.positional else field.spelling
        assert shown in text
        if default := default_text(field):
            assert f"[default: {default}]" in text, field.name


@pytest.mark.parametrize("name", VERBS)
def test_choices_of_a_function_are_passed_by_name(name):
    parameters = list(inspect.signature(VERBS[name].verb).parameters.values())
    assert all(p.kind == inspect.Parameter.KEYWORD_ONLY for p in parameters[2:])


def test_the_default_of_the_command_line_is_that_of_python():
    for name, field in OPTIONS:
        text = default_text(field)
        if text is not None and isinstance(field.default, (str, tuple, type(None))):
            value = python_value(field, text)
            assert value in (field.default, (field.default,)), f"{name} {field.spelling}"


def test_one_idea_has_one_spelling():
    for name, field in OPTIONS:
        assert field.spelling not in set(RENAMED) - {"--prompt"}, f"{name} {field.spelling}"
        assert field.option.help.endswith((".", "...")), f"{name} {field.spelling}"


@pytest.mark.parametrize("old", sorted(RENAMED.keys() - {"--prompt"}))
def test_an_old_option_is_an_error_that_names_the_new_one(old):
    result = invoke("validate", "x", "--reference", "y", old, "3")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Unknown option {old}. {RENAMED[old]}" in result.stderr


def test_a_misspelled_option_names_the_nearest():
    assert "Did you mean --samples?" in invoke("quantize", "x", "--sample", "3").stderr


def test_a_verb_takes_one_value_or_several():
    one, several = (salient.plan("Llama-3.1-8B", gpu=gpu) for gpu in ("H100", ["H100", "A100"]))
    assert [len(result.devices) for result in (one, several)] == [1, 2]


def test_a_number_out_of_bounds_is_refused_in_python_too():
    with pytest.raises(RequestError, match="--samples 0 is out of range: give at least 1"):
        salient.quantize("x", samples=0)


def test_packages_are_verbs_too():
    from salient.plan.planner import make_plan

    assert callable(make_plan)
    assert salient.plan("Llama-3.1-8B").passed
    assert inspect.signature(salient.plan).parameters.keys() == set(
        inspect.signature(api.plan).parameters
    )


def test_the_root_has_the_verbs_and_imports_no_torch():
    names = "bench chat doctor evaluate generate inspect load load_engine load_test plan quantize"
    lines = [
        "import sys, salient",
        f"assert all(callable(getattr(salient, name)) for name in {names.split()!r})",
        "assert callable(salient.serve) and callable(salient.validate) and salient.__version__",
        "assert not {'torch', 'transformers', 'rich', 'cyclopts'} & set(sys.modules)",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_the_reference_of_the_command_line_is_up_to_date():
    """Otherwise run: python tools/write_cli_docs.py"""
    tool = runpy.run_path(str(ROOT / "tools" / "write_cli_docs.py"))
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == tool["document"]()


# Errors


CLASSES = [
    c for c in vars(errors).values() if isinstance(c, type) and c.__module__ == errors.__name__
]


def error_tree() -> dict[str, str]:
    """Error name -> name of its base, in the tree of the module's docstring."""
    tree, above = {}, []
    for line in errors.__doc__.splitlines():
        if match := re.match(r"( *)([A-Z]\w+)(?:  +\S.*)?$", line):
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            tree[match[2]] = above[depth - 1] if depth else "Exception"
    return tree


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_every_error_is_in_the_docstrings_tree_under_its_base(error):
    assert error_tree()[error.__name__] == error.__bases__[0].__name__


def test_the_tree_has_no_other_error():
    assert set(error_tree()) == {error.__name__ for error in CLASSES}


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_every_error_has_the_common_base_and_a_docstring(error):
    assert issubclass(error, errors.SalientError)
    assert error.__doc__.endswith(".")
