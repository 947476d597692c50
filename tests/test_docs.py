"""Documentation: its commands parse, its links resolve, its examples of files are valid."""

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.cli import invoke
from salient.cli.options import python_value
from salient.cli.parser import create_app
from salient.cli.verb_commands import COMMANDS, Command
from salient.core.options import check_bounds, option_fields
from salient.validate.policy.policy import read_policy
from salient.validate.tasks.task_sets import read_tasks

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
GENERATED = DOCS / "cli.md"  # by tools/write_cli_docs.py, from the command line itself
PAGES = [*(ROOT / name for name in TOP), *sorted({*DOCS.glob("*.md")} - {GENERATED})]
PAGES += sorted((ROOT / "examples").glob("*.md"))
OPTIONS = {
    command.name: {field.spelling for field in option_fields(command.options)}
    | {field.option.alias for field in option_fields(command.options)}
    | {
        f"--no-{field.spelling[2:]}"
        for field in option_fields(command.options)
        if field.default is True
    }
    | ({"--json"} if command.has_json else set())
    for command in COMMANDS
}
GLOBAL = {"--help", "--version"}
# Options of other programs, and old spellings where a page names their replacements.
FOREIGN = {
    "--enforce-eager",
    "--quantization",
    "--no-deps",
    "--only",
    "--runner",
    "--speculative-config",
}
RENAMED_IN = "CHANGELOG.md"


def code_blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.S | re.M)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `salient ...` line in the page's blocks, without redirections."""
    for block in code_blocks(page.read_text("utf-8"), r"\w*"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r" \| | 2?> | && ", line.strip().removeprefix("$ ")):
                message = shlex.split(part, comments=True) if part.startswith("salient ") else []
                if message and message[-1] != "...":
                    yield message[1:]


CASES = [
    pytest.param(message, id=f"{page.name}: {' '.join(message)}")
    for page in PAGES
    if page.exists()
    for message in commands(page)
]


@pytest.mark.parametrize("message", CASES)
def test_a_documented_command_fits_the_command_line(message, monkeypatch):
    def build_options(command: Command, typed: dict[str, Any]) -> int:
        typed.pop("json", None)
        fields = {field.name: field for field in option_fields(command.options)}
        values = {name: python_value(fields[name], value) for name, value in typed.items()}
        check_bounds(command.options(**values))
        return 0

    monkeypatch.setattr(Command, "run", build_options)
    command, bound, _ = create_app().parse_args(message, print_error=False, exit_on_error=False)
    if not GLOBAL & set(message):
        assert command(*bound.args, **bound.kwargs) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_options_exist(page):
    text = prose(page.read_text("utf-8"))
    every = set().union(*OPTIONS.values()) | GLOBAL | FOREIGN
    for code in re.findall(r"`([^`\n]+)`", text):
        match = re.match(r"salient ([a-z-]+)", code)
        verb = match.group(1) if match else ""
        assert not match or verb in OPTIONS, code
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", code):
            if page.name == RENAMED_IN and option not in every:
                continue
            assert option in (OPTIONS[verb] | FOREIGN if verb else every), code


def test_every_option_is_documented():
    """On some page other than the generated one."""
    text = "".join(page.read_text("utf-8") for page in PAGES)
    named = set(re.findall(r"--[a-z][a-z-]*", text))
    fields = [field for command in COMMANDS for field in option_fields(command.options)]
    undocumented = {
        field.spelling
        for field in fields
        if not field.option.positional
        and not {field.spelling, f"--no-{field.spelling[2:]}"} & named
        and (not field.option.alias or f"`{field.option.alias}`" not in text)
    }
    assert not sorted(undocumented)


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text("utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for link in links(page):
        if not re.match(r"https?:|mailto:|#", link):
            assert (page.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_a_page_exist(page):
    for path in re.findall(
        r"`((?:src|tests|tools|benchmarks|interop)/[\w./*-]+)`", prose(page.read_text("utf-8"))
    ):
        assert list(ROOT.glob(path.rstrip("/"))), path


def figureless(text: str) -> list[str]:
    """The lines with # for figures, without the width of columns."""
    figures = re.sub(r"\d[\d.,]*(-\d[\d.,]*)?", "#", text)
    return [re.sub(r"([ ━─])\1+", r"\1", line) for line in figures.splitlines()]


@pytest.mark.parametrize("page", ["README.md", "docs/plan.md"])
def test_the_shown_plans_are_those_that_are_printed(page, monkeypatch):
    """Otherwise run: python tools/write_plan_docs.py"""

    def run(argv: list[str], width: int) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        return invoke(*argv).stdout

    written = runpy.run_path(str(ROOT / "tools" / "write_plan_docs.py"))["written"]
    assert figureless(written(page, run)) == figureless((ROOT / page).read_text("utf-8"))


def test_every_picture_is_shown():
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    pictures = {*DOCS.glob("*.png"), *DOCS.glob("*.svg")}
    assert not pictures - shown


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) < 8192


def test_the_documented_policy_and_tasks_are_valid(tmp_path):
    text = (DOCS / "validate.md").read_text("utf-8")
    policy, tasks = tmp_path / "policy.toml", tmp_path / "tasks.jsonl"
    policy.write_text(code_blocks(text, "toml")[0], "utf-8")
    tasks.write_text(code_blocks(text, "json")[0], "utf-8")
    assert read_policy(str(policy)).bounds
    assert len(read_tasks(str(tasks))) == 2
