"""Write docs/cli.md, the reference of the command line, from the options records.

python tools/write_cli_docs.py
"""

from pathlib import Path

from salient.cli.options import JSON_HELP, RENAMED, default_text, is_repeated, value_name
from salient.cli.parser import command_help, create_app
from salient.cli.verb_commands import COMMANDS, Command
from salient.core.options import OptionField, option_fields

TARGET = Path(__file__).parents[1] / "docs" / "cli.md"
INTRODUCTION = """\
# Command line

<!-- Written by tools/write_cli_docs.py from the options records; do not edit. -->

`salient COMMAND --help` shows the same in a terminal, and `salient --install-completion` installs
completion for the shell. In Python every command is a function with the same options:
`salient load-test URL --max-new-tokens 64` is `salient.load_test(URL, max_new_tokens=64)`, and
`--concurrency 1,4,8` is `concurrency=[1, 4, 8]`.

Exit codes: 0 done, 1 a negative verdict, 2 an error (only its message), 130 interrupted. With
`--json` a command prints one JSON document instead of tables, also for an error.
"""


def document() -> str:
    """The text of docs/cli.md."""
    index = "\n".join(f"- [`{c.name}`](#{c.name}): {command_help(c)}" for c in COMMANDS)
    parts = [INTRODUCTION, index + "\n", *map(_section, COMMANDS), _renamed()]
    return "\n".join(parts)


def _section(command: Command) -> str:
    options = option_fields(command.options)
    arguments = [field for field in options if field.option.positional]
    usage = " ".join(["salient", command.name, "[OPTIONS]", *map(_argument, arguments)])
    lines = [f"## {command.name}", "", command_help(command), "", "```text", usage, "```", ""]
    lines += ["| option | default | meaning |", "|---|---|---|"]
    lines += [_row(field) for field in sorted(options, key=lambda f: not f.option.positional)]
    if command.has_json:
        lines.append(f"| `--json` | | {JSON_HELP} |")
    return "\n".join(lines) + "\n"


def _argument(field: OptionField) -> str:
    name = field.name.upper() + ("..." if is_repeated(field) else "")
    return name if field.required else f"[{name}]"


def _row(field: OptionField) -> str:
    option = field.option
    if option.positional:
        name = f"`{field.name.upper()}`"
    else:
        value = value_name(field)
        names = [field.spelling, *([option.alias] if option.alias else [])]
        name = ", ".join(
            f"`{spelling} {value}`" if value else f"`{spelling}`" for spelling in names
        )
        name += f", `--no-{field.spelling[2:]}`" if field.default is True else ""
    default = default_text(field)
    shown = "required" if field.required else f"`{default}`" if default else ""
    source = f" Environment: `{option.env}`." if option.env else ""
    return f"| {name} | {shown} | {option.help.replace('|', '/')}{source} |"


def _renamed() -> str:
    rows = [f"| `{old}` | {advice} |" for old, advice in RENAMED.items()]
    lines = ["## Options of earlier versions", "", "| option | today |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    create_app()  # fails for options that cannot be parsed
    TARGET.write_text(document(), encoding="utf-8")
    print(f"Wrote {TARGET}")
