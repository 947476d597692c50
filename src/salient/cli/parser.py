"""Parsing: a command for each verb, built from its options record."""

import sys
from collections.abc import Callable, Sequence
from inspect import cleandoc
from typing import Any, NoReturn

from cyclopts import App, CycloptsError, UnknownOptionError

from salient.core.version import __version__

from .options import RENAMED, signature
from .process_end import process_end
from .terminal import Terminal, open_streams, print_error
from .verb_commands import COMMANDS, Command

HELP = "Turn a language model into a 4-bit AWQ checkpoint, with proof and figures."


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line `argv`, by default the process's own, and exit."""
    tokens = sys.argv[1:] if argv is None else list(argv)
    open_streams()
    with process_end(tokens):
        code = _run(tokens)
    sys.exit(code)


def _run(tokens: list[str]) -> int:
    app = create_app()
    try:
        command, bound, _ = app.parse_args(tokens, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        known = [name for name in tokens[:1] if name in {command.name for command in COMMANDS}]
        print_error(f"{usage_message(error)}\nTry: {' '.join(['salient', *known, '--help'])}")
        return 2
    code = command(*bound.args, **bound.kwargs)
    return (code or 0) if tokens else 2  # without arguments: the help, and an error


def create_app() -> App:
    """The parser of all commands."""
    app = App(
        name="salient",
        help=HELP,
        version=f"salient {__version__}",
        version_flags=["--version"],
        help_flags=["--help"],
        help_format="plaintext",
        verbose=False,
        default_parameter=None,
        console=Terminal(),
        error_console=Terminal(stderr=True),
    )
    app.command(
        lambda: _install_completion(app),
        name="--install-completion",
        help="Install completion for the current shell.",
        sort_key=len(COMMANDS),
    )
    for place, command in enumerate(COMMANDS):
        app.command(_runner(command), name=command.name, sort_key=place)
    return app


def _install_completion(app: App) -> int:
    print(f"Installed {app.install_completion()}. Restart the shell to use it.")
    return 0


def command_help(command: Command) -> str:
    """The first paragraph of the verb's docstring, and the meaning of exit code 1."""
    text = cleandoc(command.verb.__doc__ or "").split("\n\n")[0]
    return f"{text} Exit code 1: {command.exit_1}." if command.exit_1 else text


def usage_message(error: CycloptsError) -> str:
    """What is wrong with the command line, and the name that replaces an old option."""
    if isinstance(error, UnknownOptionError):
        spelling = (error.token.keyword or error.token.value).partition("=")[0]
        if spelling in RENAMED:
            return f"Unknown option {spelling}. {RENAMED[spelling]}"
    return str(error)


def _runner(command: Command) -> Callable[..., int]:
    parameters = signature(command.options, json=command.has_json)
    names = [p.name for p in parameters.parameters.values() if p.kind == p.POSITIONAL_ONLY]
    rest = [p.name for p in parameters.parameters.values() if p.kind == p.VAR_POSITIONAL]

    def run(*args: Any, **values: Any) -> int:
        values |= dict(zip(names, args, strict=False))
        values |= {name: args[len(names) :] for name in rest}
        return command.run(values)

    run.__signature__ = parameters  # type: ignore[attr-defined]
    run.__doc__, run.__name__ = command_help(command), command.name
    return run
