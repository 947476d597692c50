"""A shell text cut into commands of words, each with its line; nothing is run.

Enough of the shell for scripts that start servers: quotes, continued lines, comments, variables
assigned in the text, exec lists of Dockerfiles. Left out: control flow and functions; every
command is seen once, as it stands.
"""

import bisect
import itertools
import re
import shlex
from dataclasses import dataclass

from .settings import UNKNOWN

_MOST_WORDS = 10_000  # of one command; what comes after them is no command line

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
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?[-=]([^}]*)|[^}]*)\}|(\w+))")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True)
class ShellWord:
    """A word as it is written, and its line, from 1."""

    raw: str
    line: int

    @property
    def text(self) -> str:
        """The word without its quotes; variables stand in it as they are."""
        if not any(mark in self.raw for mark in "'\"\\"):
            return self.raw
        try:
            return " ".join(shlex.split(self.raw)).replace(_CONTINUED, "")
        except ValueError:
            return self.raw


def commands_of(text: str) -> list[list[ShellWord]]:
    """The commands of `text`, each a list of its words; comments and redirections are left out."""
    text = _JOINED.sub(_CONTINUED, text)
    text = _EXEC_LIST.sub(_exec_words, text)
    breaks = [place for place, letter in enumerate(text) if letter in ("\n", _CONTINUED)]
    commands: list[list[ShellWord]] = [[]]
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "end":
            commands.append([])
        elif token.lastgroup == "word" and len(commands[-1]) < _MOST_WORDS:
            line = bisect.bisect_left(breaks, token.start()) + 1
            commands[-1].append(ShellWord(token[0].strip("`"), line))
    whole = [command for command in commands if command]
    return [one for command in whole for one in (_nested(command) or [command])]


def _exec_words(found: re.Match[str]) -> str:
    """An exec list, `CMD ["a", "b"]`, as words of a shell, of the same length."""
    start = found.start(1) - found.start()
    items = _EXEC_ITEM.sub(lambda item: item[0] if len(item[0]) > 1 else " ", found[1])
    return found[0][:start] + items


def _nested(command: list[ShellWord]) -> list[list[ShellWord]]:
    """The commands of a text that another shell is given: `sh -c "vllm serve MODEL"`."""
    made = []
    for option, word in itertools.pairwise(command):
        if option.raw == "-c" and word.raw[:1] in "'\"" and "serve" in word.raw:
            for words in commands_of(word.text):
                made.append([ShellWord(one.raw, word.line + one.line - 1) for one in words])
    return made


def expanded(word: ShellWord, variables: dict[str, str]) -> str:
    """The word's text with the variables that the file assigns; UNKNOWN where others stand."""
    text = word.text
    if word.raw.startswith("'"):
        return text
    if "$(" in text or "{{" in text or "`" in text:
        return UNKNOWN
    unknown = False

    def value(found: re.Match[str]) -> str:
        nonlocal unknown
        held = variables.get(found[1] or found[3], found[2])
        unknown = unknown or held is None or held == UNKNOWN
        return held or ""

    text = _VARIABLE.sub(value, text)
    return UNKNOWN if unknown else text
