"""Serving settings from a command line: a shell script, a Dockerfile, a unit file, a list of words.

Knows `vllm serve`, the api_server module, SGLang's launchers, and `docker run` of their images.
"""

import itertools
import re
from dataclasses import dataclass
from typing import Any

from .argument_table import KINDS, SGLANG_FLAGS
from .argument_values import value_of
from .settings import UNKNOWN, Engine, SettingsBuilder
from .shell_words import ASSIGNMENT, BROKEN, ShellWord, commands_of, expanded

_MODULES: dict[str, Engine] = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.api_server": "vllm",
    "vllm/entrypoints/openai/api_server.py": "vllm",
    "sglang.launch_server": "sglang",
    "sglang/launch_server.py": "sglang",
}
_IMAGE = re.compile(r"(?:^|/)vllm(?:-openai|-cpu)?[\w-]*(?:[:@]\S*)?$")
_SETTERS = ("export", "ENV", "ARG")
_UNIT = re.compile(r"^(ExecStart|Environment)=[-@:+!]*")
_TRUTHS = ("true", "false", "True", "False", "0", "1", "yes", "no")
_NOT_A_COMMAND = ("pip", "pip3", "uv", "FROM", "image:", "git", "echo", "cd")


@dataclass(frozen=True)
class EngineCommand:
    """A command that starts an engine: its words, and where its arguments begin."""

    words: list[ShellWord]
    engine: Engine
    start: int


def read_command(draft: SettingsBuilder, text: str) -> bool:
    """Put the first command of `text` that starts an engine into `draft`; False if there is none.

    Variables that the text exports, and those that stand before the command, are kept too.
    """
    variables: dict[str, str] = {}
    found: list[EngineCommand] = []
    for words in commands_of(text):
        words = _unit_words(words)
        start = _start(words)
        if start and not found:
            assigned = _assignments(words, variables)
            for name, value, line in assigned + _container_variables(words[: start[1]], variables):
                draft.put_variable(name, value, line)
        if start:
            found.append(EngineCommand(words, *start))
        else:
            _set_variables(draft, words, variables)
    if not found:
        return False
    draft.engine = found[0].engine
    put_words(draft, found[0].words[found[0].start :], variables)
    _tell_the_rest(draft, text, found)
    return True


def put_words(draft: SettingsBuilder, words: list[ShellWord], variables: dict[str, str]) -> None:
    """Put arguments, as argparse would read them, into `draft`."""
    texts = [expanded(word, variables) for word in words]
    place = 0
    while place < len(words):
        word, text = words[place], texts[place]
        if text.startswith("-") and len(text) > 1 and not _is_number(text):
            place += 1 + _put_argument(draft, text, texts[place + 1 :], word.line)
            continue
        if "model" not in draft.values and text.strip() not in ("", "serve", "--"):
            draft.put("model", text, word.line, "model")
        place += 1


def _put_argument(draft: SettingsBuilder, text: str, rest: list[str], line: int) -> int:
    """Put one argument; how many words of `rest` it took."""
    written, has_value, value = text.partition("=")
    if written.startswith("-O") and len(written) > 2 and not written.startswith("--"):
        written, has_value, value = "-O", "=", value or written[2:]
    base, *path = written.split(".")
    name = draft.name_of(base)
    if path and KINDS.get(name) == "json":
        taken = 0 if has_value else 1
        _put_nested(draft, name, path, value if has_value else "".join(rest[:1]), line)
        return taken
    if _is_flag(draft, name) or _is_flag(draft, name.removeprefix("no_")):
        return _put_flag(draft, written, value if has_value else None, rest, line)
    values = [value] if has_value else _values(rest, several=KINDS.get(name) == "list")
    if not values:
        if name in KINDS:
            draft.note("argument-without-value", "error", f"{written} has no value", line)
        draft.put(name, None if name in KINDS else True, line, written)
        return 0
    held = [_known(name, text) for text in values]
    draft.put(name, held if KINDS.get(name) == "list" else held[0], line, written)
    return 0 if has_value else len(values)


def _put_flag(
    draft: SettingsBuilder, written: str, value: str | None, rest: list[str], line: int
) -> int:
    """A flag stands alone: a value after it is refused by argparse, and told."""
    name = draft.name_of(written)
    flag = name if _is_flag(draft, name) else name.removeprefix("no_")
    following = rest[0] if rest and rest[0] in _TRUTHS else None
    given = value if value is not None else following
    truth = (name == flag) == (given is None or given.lower() not in ("false", "0", "no"))
    draft.put(flag, truth, line, f"--{flag.replace('_', '-')}")
    if given is not None:
        draft.note(
            "flag-with-value", "error", f"{written} takes no value", line, f"{written} {given}"
        )
    return 0 if following is None or value is not None else 1


def _put_nested(draft: SettingsBuilder, name: str, path: list[str], text: str, line: int) -> None:
    """--name.key value, which stands for a JSON object."""
    held: Any = _known(name, text)
    for key in reversed(path):
        held = {key.rstrip("+"): held}
    before = draft.values.get(name)
    merged = {**before, **held} if isinstance(before, dict) else held
    draft.values.pop(name, None)
    draft.put(name, merged, line, f"--{name.replace('_', '-')}")


def _values(rest: list[str], *, several: bool) -> list[str]:
    taken = []
    for text in rest:
        if text.startswith("-") and not _is_number(text):
            break
        taken.append(text)
        if not several:
            break
    return taken


def _known(name: str, text: str) -> Any:
    return text if text == UNKNOWN else value_of(name, text)


def _is_flag(draft: SettingsBuilder, name: str) -> bool:
    if draft.engine == "sglang":
        return name in SGLANG_FLAGS
    return KINDS.get(name) == "flag"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-\d+(?:\.\d+)?", text) is not None


def _start(words: list[ShellWord]) -> tuple[Engine, int] | None:
    """For which engine a command is, and the word where its arguments begin."""
    if not any("vllm" in word.raw or "sglang" in word.raw for word in words):
        return None
    texts = [word.text for word in words]
    if texts[0] in _NOT_A_COMMAND:
        return None
    for place, text in enumerate(texts):
        program = text.rsplit("/", 1)[-1]
        if program in ("vllm", "sglang") and texts[place + 1 : place + 2] == ["serve"]:
            return ("vllm" if program == "vllm" else "sglang"), place + 2
        for module, engine in _MODULES.items():
            if text == module or text.endswith("/" + module):
                return engine, place + 1
    image = [place for place, text in enumerate(texts) if place and _IMAGE.search(text)]
    return ("vllm", image[0] + 1) if image and "run" in texts[: image[0]] else None


def _unit_words(words: list[ShellWord]) -> list[ShellWord]:
    """A systemd line's words: `ExecStart=vllm` is the program, `Environment=A=b` sets A."""
    found = _UNIT.match(words[0].raw)
    if not found:
        return words
    rest = ShellWord(words[0].raw[found.end() :], words[0].line)
    set_first = [ShellWord("ENV", rest.line)] if found[1] == "Environment" else []
    return [*set_first, rest, *words[1:]]


def _assignments(words: list[ShellWord], variables: dict[str, str]) -> list[tuple[str, str, int]]:
    """The `NAME=value` words at the beginning."""
    made = []
    for word in words:
        name, equals, _ = word.raw.partition("=")
        if not equals or not ASSIGNMENT.match(word.raw):
            if word.raw in ("env", "exec", "nohup", "sudo", "time"):
                continue
            break
        value = expanded(ShellWord(word.raw[len(name) + 1 :], word.line), variables)
        made.append((name, value, word.line))
    return made


def _container_variables(
    words: list[ShellWord], variables: dict[str, str]
) -> list[tuple[str, str, int]]:
    """What `docker run -e NAME=value` hands to the container."""
    made = []
    for option, word in itertools.pairwise(words):
        name, equals, value = expanded(word, variables).partition("=")
        if option.raw in ("-e", "--env") and equals:
            made.append((name, value, word.line))
    return made


def _set_variables(
    draft: SettingsBuilder, words: list[ShellWord], variables: dict[str, str]
) -> None:
    """Keep what a line assigns, and hand on what it exports."""
    exported = words[0].raw in _SETTERS
    assigned = words[1:] if exported else words
    if exported and len(assigned) == 2 and "=" not in assigned[0].raw:  # ENV NAME value
        assigned = [ShellWord(f"{assigned[0].raw}={assigned[1].raw}", assigned[0].line)]
    whole = [ShellWord(_unquoted_assignment(word), word.line) for word in assigned]
    for name, value, line in _assignments(whole, variables):
        variables[name] = value
        if exported:
            draft.put_variable(name, value, line)


def _unquoted_assignment(word: ShellWord) -> str:
    """`"A=b"` as a unit file quotes it is `A=b`."""
    return word.text if word.raw[:1] in "'\"" else word.raw


def _tell_the_rest(draft: SettingsBuilder, text: str, found: list[EngineCommand]) -> None:
    """Notes: lines that break a command, more commands, settings in another file."""
    for broken in itertools.islice(BROKEN.finditer(text), 5):
        line = text.count("\n", 0, broken.start()) + 1
        title = "A blank after the backslash ends the command: delete it, or the rest is lost"
        draft.note("broken-continuation", "error", title, line)
    if len(found) > 1:
        first, others = found[0].words[0].line, [one.words[0].line for one in found[1:]]
        title = f"{len(found)} commands start an engine; the first, on line {first}, was read"
        lines = ", ".join(map(str, others[:5]))
        draft.note("several-commands", "note", title, others[0], f"others on lines {lines}")
    other = draft.values.get("config")
    if isinstance(other, str):
        title = f"{other} holds more settings; have it read too: salient doctor {other}"
        draft.note("settings-elsewhere", "note", title, draft.lines["config"])
