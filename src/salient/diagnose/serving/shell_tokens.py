"""A shell text cut into commands of words, each with its line; nothing is run.

Enough of the shell for scripts that start servers: quotes, continued lines, comments, variables
assigned in the text, exec lists of Dockerfiles. Control flow and functions are ignored; every
command appears once, as written.
"""

import bisect
import itertools
import re
import shlex
from dataclasses import dataclass

from .settings import UNKNOWN

_MOST_TOKENS = 10_000  # of one command; the rest is no command line

# a continued line's break: white space to the expressions below, and still a line to count
_CONTINUED = "\x1f"
_JOINED = re.compile(r"\\\r?\n")
BROKEN = re.compile(r"\\[ \t]+\r?\n(?=[ \t]*-)")
_EXEC_LIST = re.compile(
    r"""^[ \t]*(?:CMD|ENTRYPOINT)[^\S\n]+(\[(?:[^\]"\n]|"(?:\\.|[^"\\\n])*+")*+\])""", re.MULTILINE
)
_EXEC_ITEM = re.compile(r'"(?:\\.|[^"\\])*+"|[\[\],]')
_TOKEN = re.compile(
    r"""
      (?P<comment>(?<!\S)\#[^\n]*)
    | (?P<redirect>(?:\d+|&)?[<>]+&?[^\S\n]*[^\s;&|]*)
    | (?P<end>\n|;|&&?|\|\|?|\(|\))
    | (?P<word>(?:\$\([^()]*+\)|\$\{[^}\n]*+\}|(?<=\w)'(?=\w)|[^\s'"\\;&|()<>]
                 |\\.|'[^']*+'|"(?:\\.|[^"\\])*+")++)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPTION_START = re.compile(r"--?[A-Za-z][\w.-]*=")
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?[-=]([^}]*)|[^}]*)\}|(\w+))")


@dataclass(frozen=True)
class ShellToken:
    """A word as written, and its line, from 1."""

    raw: str
    line: int

    @property
    def text(self) -> str:
        """The word without its quotes; variables are not expanded."""
        if not any(mark in self.raw for mark in "'\"\\"):
            return self.raw
        try:
            return " ".join(shlex.split(self.raw)).replace(_CONTINUED, "")
        except ValueError:
            return self.raw

    def expanded(self, variables: dict[str, str]) -> str:
        """The text with the file's own variables; UNKNOWN where there are others.

        Of `--name=$VALUE` the value alone is unknown.
        """
        text = self.text
        if self.raw.startswith("'"):
            return text
        option = _OPTION_START.match(text)
        unknown = (option[0] if option else "") + UNKNOWN
        if "$(" in text or "{{" in text or "`" in text:
            return unknown
        names = _VARIABLE.finditer(text)
        values: list[str | None] = [variables.get(m[1] or m[3], m[2]) for m in names]
        if None in values or UNKNOWN in values:
            return unknown
        return _VARIABLE.sub(lambda match: variables.get(match[1] or match[3], match[2]), text)


def commands_of(text: str) -> list[list[ShellToken]]:
    """The commands of `text`, each a list of its words, without comments and redirections."""
    text = _JOINED.sub(_CONTINUED, text)
    text = _EXEC_LIST.sub(_exec_tokens, text)
    breaks = [place for place, letter in enumerate(text) if letter in ("\n", _CONTINUED)]
    commands: list[list[ShellToken]] = [[]]
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "end":
            commands.append([])
        elif token.lastgroup == "word" and len(commands[-1]) < _MOST_TOKENS:
            line = bisect.bisect_left(breaks, token.start()) + 1
            commands[-1].append(ShellToken(token[0].strip("`"), line))
    return [one for command in commands if command for one in (_nested(command) or [command])]


def _exec_tokens(match: re.Match[str]) -> str:
    """An exec list, `CMD ["a", "b"]`, as words of a shell, of the same length."""
    start = match.start(1) - match.start()
    items = _EXEC_ITEM.sub(lambda item: item[0] if len(item[0]) > 1 else " ", match[1])
    return match[0][:start] + items


def _nested(command: list[ShellToken]) -> list[list[ShellToken]]:
    """The commands in the text of another shell: `sh -c "vllm serve MODEL"`."""
    return [
        [ShellToken(inner.raw, word.line + inner.line - 1) for inner in tokens]
        for option, word in itertools.pairwise(command)
        if option.raw == "-c" and word.raw[:1] in "'\"" and "serve" in word.raw
        for tokens in commands_of(word.text)
    ]
