"""The command line: parse, call one verb of `salient.api`, show its result, exit."""

from .parser import main

__all__ = ["main"]
