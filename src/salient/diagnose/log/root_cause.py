"""The failure that all others follow from, and what a person needs to search for it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from salient.diagnose.tables import read_toml

from .structure import Failure, Frame

SHOWN_FRAMES = 3
MAX_TERMS = 10  # words of a search
NEAR = 20  # lines around a failure that belong to it
_FACTS = read_toml(Path(__file__).with_name("root_cause.toml"))
_ECHO, _WEAK, _QUIET = (re.compile("|".join(_FACTS[name])) for name in ("echoes", "weak", "quiet"))
_PLUMBING, _RELAYS = frozenset(_FACTS["plumbing"]), frozenset(_FACTS["relays"])
_COMMON = frozenset(_FACTS["common"].split())
_LOOKUPS: frozenset[str] = frozenset(_FACTS["lookups"])
TRACKERS: dict[str, str] = _FACTS["trackers"]
_WORKER_ERROR = re.compile(
    r"Worker failed with error ['\"](?P<inner>.*?)(?:['\"],? please check.*)?$"
)
_PACKAGE = re.compile(r"(?:site|dist)-packages/(\w+)")
_STDLIB = re.compile(r"(?:/lib/python3\.\d+/(?!site-packages|dist-packages)|<frozen |lib\\\w+\.py)")


def is_echo(failure: Failure) -> bool:
    """Whether it only repeats that something failed earlier."""
    return failure.kind == "fatal" or bool(_ECHO.search(failure.label))


def _tier(failure: Failure) -> int:
    """How much a failure may be the cause: small ones first."""
    if failure.kind == "logged" or failure.level in ("WARNING", "INFO", "DEBUG"):
        return 4
    if is_echo(failure):
        return 3
    if _WEAK.search(failure.label):
        return 2
    return 1 if failure.kind == "cut" else 0


def is_quiet(failure: Failure) -> bool:
    """Whether it is no failure of the server."""
    return failure.ignored or bool(_QUIET.search(failure.label))


def deepest(failure: Failure) -> Failure:
    """The cause in a chain of exceptions; an exception raised while a mere lookup was handled says
    more than the lookup."""
    if failure.cause is None:
        return failure
    inner = deepest(failure.cause)
    bare = failure.link == "context" and inner.name.rpartition(".")[2] in _LOOKUPS
    says_more = bare and not is_echo(failure) and failure.kind != "cut"
    return failure if says_more or is_echo(inner) or is_quiet(inner) else inner


@dataclass(frozen=True)
class RootCause:
    """The first failure that is not an echo of another one.

    cause: the exception to show   outer: the last exception of its chain
    fatal: whether the log says that a process ended because of a failure
    echoes: number of other failures
    """

    cause: Failure
    outer: Failure
    fatal: bool
    echoes: int

    @property
    def kind(self) -> str:
        return self.cause.kind

    @property
    def vague(self) -> bool:
        """Whether it only says that something failed."""
        return self.kind in ("logged", "fatal") or is_echo(self.cause)

    def near(self, line: int) -> bool:
        """Whether a line of the log belongs to the failure."""
        first = min(failure.first for failure in self.outer.chain())
        return first - NEAR <= line <= self.outer.last + NEAR

    def frames(self) -> list[Frame]:
        """The last frames that are not library plumbing; all if there are no others."""
        frames = self.cause.frames or self.outer.frames
        own = [f for f in frames if not is_plumbing(f) and f.function not in _RELAYS]
        return (own or frames)[-SHOWN_FRAMES:]

    def label(self) -> str:
        """Exception and message; of an assertion without text its code."""
        cause = self.cause
        if match := _WORKER_ERROR.search(cause.message):
            return match["inner"]
        if cause.kind == "cut":
            return "a traceback whose last line is not in the log"
        if not cause.message and cause.frames and cause.frames[-1].code:
            return f"{cause.name}: {cause.frames[-1].code}"
        return cause.label

    def context(self, engine: str) -> str:
        """Where it was raised: process, engine, the last frames, and what followed from it."""
        parts = [part for part in (self.cause.process, engine) if part]
        text = f"In {', '.join(parts)}. " if parts else ""
        if frames := [f"{short_path(f.path)}:{f.line} {f.function}" for f in self.frames()]:
            text += f"Last frames: {'; '.join(frames)}. "
        if self.outer is not self.cause and self.outer.name:
            text += f"It led to {self.outer.label:.160}. "
        return text

    def package(self, engine: str) -> str:
        """The package that raised it, if it has a tracker, else the engine."""
        packages = [package_of(frame) for frame in reversed(self.cause.frames or self.outer.frames)]
        return next((name for name in packages if name in TRACKERS), engine)

    def search_terms(self) -> str:
        """What is worth searching for: without numbers, paths and names of one installation."""
        return search_terms(self.label(), [frame.function for frame in self.frames()[-1:]])


def find_root(
    failures: Sequence[Failure], *, served_after: int | None, ended_at: int | None
) -> RootCause | None:
    """The root of all failures of a log, None if nothing failed.

    served_after: the last line that shows that the server answers, None if there is none. A line
        that merely reports an error before it did not stop anything.
    ended_at: the line from which on somebody ends the server; what its processes say about each
        other from there on is no failure
    """
    real = [one for one in failures if not is_quiet(deepest(one))]
    if ended_at is not None:
        real = [one for one in real if one.first < ended_at or _tier(deepest(one)) in (0, 1)]
    fatal = any(_tier(one) == 3 or one.kind in ("killed", "crashed", "usage") for one in real)
    if served_after is not None:
        real = [one for one in real if _tier(one) < 4 or one.last > served_after]
    if not real:
        return None
    outer = min(real, key=lambda one: (_tier(deepest(one)), one.first))
    return RootCause(deepest(outer), outer, fatal, len(real) - 1)


def short_path(path: str) -> str:
    """The path from its package on."""
    return re.sub(r"^.*(?:(?:site|dist)-packages|/python3\.\d+|/workspace|/home/\w+)/", "", path)


def package_of(frame: Frame) -> str:
    """The package of a frame's file, "" if unknown."""
    match = _PACKAGE.search(frame.path)
    if match:
        return match[1]
    parts = frame.path.replace("\\", "/").split("/")[:-1]
    return next((part for part in parts if part in TRACKERS), "")


def is_plumbing(frame: Frame) -> bool:
    """Whether a frame only leads to the code that failed."""
    package = package_of(frame)
    return package in _PLUMBING or (not package and bool(_STDLIB.search(frame.path)))


def engine_of(failures: Iterable[Failure]) -> str:
    """The engine whose code is in tracebacks, "" if none is."""
    packages = {package_of(frame) for one in failures for frame in one.frames}
    names = {"vllm": "vllm", "sglang": "sglang", "text_generation_server": "tgi"}
    return next((engine for package, engine in names.items() if package in packages), "")


def search_terms(label: str, functions: Iterable[str]) -> str:
    """At most `MAX_TERMS` distinctive words of a message, and names of functions."""
    text = re.sub(r"0x[0-9a-f]+|(?:/[\w.-]+){2,}|\b\w*\d{3,}\w*\b|https?://\S+", " ", label)
    terms = [term.strip(".") for term in re.findall(r"[A-Za-z_][\w.]*[A-Za-z_]\w*|[A-Z]{2,}", text)]
    own = [term for term in terms if term.lower() not in _COMMON]
    chosen = dict.fromkeys(own[:MAX_TERMS])
    return " ".join([*chosen, *(name.split("(")[0] for name in functions if name not in chosen)])
