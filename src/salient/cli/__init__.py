"""The command line: parse, call one verb of `salient.api`, show its result, exit.

Exit codes: 0 done, 1 a negative verdict, 2 an error (only its message), 130 interrupted.
"""

from .parser import main

__all__ = ["main"]
