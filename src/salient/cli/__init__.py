"""The command line: parse, call one function of `salient.api`, print its report, exit.

Exit codes: 0 done, 1 a verdict says no, 2 an error (its message alone), 130 interrupted.
"""

from typing import Annotated

import typer

from salient import __version__

from .advising import doctor, plan
from .making import inspect, quantize
from .measuring import evaluate, load_test, validate
from .running import bench, chat, generate
from .serving import serve

app = typer.Typer(
    help="Turn a language model into a 4-bit AWQ checkpoint, with proof and figures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Turn a language model into a 4-bit AWQ checkpoint, with proof and figures."""
    if version:
        print(f"salient {__version__}")
        raise typer.Exit


ADVISE, MAKE = (plan, doctor), (quantize, inspect)
MEASURE, RUN = (validate, evaluate, load_test), (serve, generate, chat, bench)
for command in (*ADVISE, *MAKE, *MEASURE, *RUN):
    app.command()(command)
