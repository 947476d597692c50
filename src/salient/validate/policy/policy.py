"""Policies: the figures that a quantized checkpoint has to reach, read from TOML.

A policy has thresholds by stage; what it does not name, it does not judge. The shipped ones explain
each figure in their comments. Imports no torch.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from os.path import expanduser  # leaves an unknown user as it is
from pathlib import Path
from typing import Any, Literal, get_args

from salient.core.errors import RequestError
from salient.core.input_files import open_input
from salient.core.intervals import FEWEST, trials_below
from salient.core.records import is_list

SHIPPED = ("strict", "balanced", "lenient")
LARGEST_FILE = 64 * 2**10  # bytes; a policy has a page
MOST_KINDS = 100

# What decides a figure of the load test: the pessimistic end of its interval, or what was measured.
# Windows, examples and facts are samples, and their intervals decide whatever the policy uses.
Use = Literal["upper", "middle"]
Direction = Literal["at most", "at least"]
# Files of the checkpoint that may be accepted although they are not the reference's.
MAY_DIFFER = ("chat_template", "stop_tokens", "rope")
JSON = dict[str, Any]


Range = tuple[type, float, float]  # int or float, and the least and largest sensible number


@dataclass(frozen=True)
class Threshold:
    """A key of a policy: the measurement's name, _max or _min, and the unit where it is no ratio.

    unit: of the bound, as text; least, most: the range of sensible bounds
    """

    stage: str
    key: str
    unit: str
    least: float
    most: float

    @property
    def what(self) -> str:
        """The measurement that it bounds."""
        return re.split("_(?:max|min)", self.key)[0]

    @property
    def direction(self) -> Direction:
        return "at most" if "_max" in self.key else "at least"

    @property
    def by_kind(self) -> bool:
        """Whether kinds of examples may have bounds of their own."""
        return self.key == "retention_min"

    @property
    def sampled(self) -> bool:
        """Whether it is of a sample of texts or examples, which says less the smaller it is."""
        return self.stage != "load"

    @property
    def range(self) -> Range:
        return float, self.least, self.most


THRESHOLDS = (
    Threshold("likelihood", "kl_max", "nats a token", 0, 10),
    Threshold("likelihood", "top1_min", "share of tokens", 0, 1),
    Threshold("likelihood", "perplexity_increase_max", "ratio - 1", 0, 10),
    Threshold("tasks", "retention_min", "of the reference's", 0, 1),
    Threshold("context", "kl_growth_max", "last / first quarter", 1, 100),
    Threshold("context", "retrieval_retention_min", "of the reference's", 0, 1),
    Threshold("load", "error_rate_max", "share of requests", 0, 1),
    Threshold("load", "ttft_p90_max_s", "s", 1e-3, 3600),
    Threshold("load", "itl_p90_max_s", "s", 1e-4, 60),
    Threshold("load", "throughput_min_tok_s", "tokens/s", 1e-3, 1e8),
)
STAGES = tuple(dict.fromkeys(t.stage for t in THRESHOLDS))
# stage -> the numbers that say when its figures count
_COUNTING: dict[str, dict[str, Range]] = {
    "likelihood": {"minimum_windows": (int, FEWEST, 10**6), "minimum_tokens": (int, 1, 10**9)},
    "tasks": {"minimum_examples": (int, 1, 10**6), "significance": (float, 1e-6, 0.5)},
}
_OF_KINDS = {t.key: t.range for t in THRESHOLDS if t.by_kind}
_OF_KINDS |= {"minimum_examples": _COUNTING["tasks"]["minimum_examples"]}


@dataclass(frozen=True)
class Policy:
    """Thresholds, and how measurements are held against them.

    bounds: (stage, key) -> bound, of the thresholds that the policy names
    minimum_windows, minimum_tokens: of each text; fewer never pass a rule on likelihood
    kinds: kind of task -> bound of its own retention, next to the one of all examples
    examples: kind -> its own minimum of examples; minimum_examples: of the others and of all;
        fewer never pass a retention
    significance: a retention below its bound fails only when the loss has a smaller p-value, too
    may_differ: of MAY_DIFFER, what the checkpoint may have otherwise than the reference
    """

    name: str
    use: Use = "upper"
    bounds: dict[tuple[str, str], float] = field(default_factory=dict)
    kinds: dict[str, float] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    minimum_windows: int = 8
    minimum_tokens: int = 512
    minimum_examples: int = 1
    significance: float | None = None
    may_differ: tuple[str, ...] = ()

    @property
    def load_requests(self) -> int:
        """Requests of a load test that show, where none fails, that its errors are few enough."""
        most = self.bounds.get(("load", "error_rate_max"), 0.0)
        return trials_below(most) if self.use == "upper" and most else 0


def read_policy(name_or_path: str) -> Policy:
    """The policy called `name_or_path`: a shipped name (SHIPPED) or a TOML file.

    Raises RequestError naming file and key of an invalid value.
    """
    if name_or_path in SHIPPED:
        path = files("salient.validate.policy") / "data" / f"{name_or_path}.toml"
        return _Reader(name_or_path).policy(tomllib.loads(path.read_text(encoding="utf-8")))
    return _Reader(name_or_path).policy(_toml(name_or_path))


def _toml(name: str) -> JSON:
    path = Path(expanduser(name))
    try:
        if not path.is_file():
            raise RequestError(_no_file(name, path))
        with open_input(path) as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise RequestError(f"Policy {name!r} cannot be read ({error}). Check the path.") from None
    if len(content) > LARGEST_FILE:
        raise RequestError(
            f"Policy {name} has more than {LARGEST_FILE >> 10} KiB. Give a TOML file of thresholds."
        )
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RequestError(
            f"Policy {name} is not UTF-8 text (byte {error.start}). Save it as UTF-8."
        ) from None
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"Policy {name} is not TOML: {str(error)[:200]}. Write it like the shipped ones: "
            "[likelihood], then kl_max = 0.05."
        ) from None


def _no_file(name: str, path: Path) -> str:
    if path.is_dir():
        return f"Policy {name!r} is a folder. Give the .toml file in it."
    if path.exists():
        return f"Policy {name!r} is no regular file. Give a .toml file."
    return (
        f"No policy {name!r}. {_near(name, SHIPPED)}Shipped are {', '.join(SHIPPED)}; or give a "
        "TOML file."
    )


@dataclass(frozen=True)
class _Reader:
    """Reads a policy's TOML. where: its name or path, for messages"""

    where: str

    def policy(self, document: JSON) -> Policy:
        self.check_keys(document, ("use", "may_differ", *STAGES), "")
        use = document.get("use", "upper")
        if use not in get_args(Use):
            expected = "'upper' (the pessimistic end of the interval) or 'middle'"
            raise self.fault("use", use, expected)
        differ = document.get("may_differ", [])
        if not is_list(differ) or any(name not in MAY_DIFFER for name in differ):
            raise self.fault("may_differ", differ, f"a list of {', '.join(MAY_DIFFER)}")
        bounds: dict[tuple[str, str], float] = {}
        counting: dict[str, dict[str, Any]] = {}
        for stage in STAGES:
            ranges = {t.key: t.range for t in THRESHOLDS if t.stage == stage}
            extra = _COUNTING.get(stage, {})
            known = (*ranges, *extra, *(("kinds",) if stage == "tasks" else ()))
            section = self.table(document, stage, stage, known)
            numbers = self.numbers(section, ranges, stage)
            bounds |= {(stage, key): bound for key, bound in numbers.items()}
            counting[stage] = self.numbers(section, extra, stage)
        kinds = self.kinds(document.get("tasks", {}))
        retentions, examples = (
            {kind: own[key] for kind, own in kinds.items() if key in own} for key in _OF_KINDS
        )
        minima = counting["likelihood"] | counting["tasks"]
        policy = Policy(
            Path(self.where).stem,
            use,
            bounds,
            retentions,
            examples,
            **minima,
            may_differ=tuple(differ),
        )
        self.refuse_contradictions(policy, counting)
        return policy

    def kinds(self, tasks: JSON) -> dict[str, dict[str, Any]]:
        """The numbers of each kind."""
        kinds = self.table(tasks, "kinds", "tasks.kinds")
        if len(kinds) > MOST_KINDS:
            raise RequestError(
                f"Policy {self.where}, tasks.kinds: {len(kinds)} kinds. Give at most {MOST_KINDS}."
            )
        places = {kind: f"tasks.kinds.{kind[:40]}" for kind in kinds}
        return {
            kind: self.numbers(self.table(kinds, kind, place, tuple(_OF_KINDS)), _OF_KINDS, place)
            for kind, place in places.items()
        }

    def refuse_contradictions(
        self, policy: Policy, counting: Mapping[str, Mapping[str, object]]
    ) -> None:
        """Refuse settings without effect."""
        if not policy.bounds and not policy.kinds:
            known = ", ".join(f"{t.stage}.{t.key}" for t in THRESHOLDS)
            raise RequestError(f"Policy {self.where} has no rule. Give at least one of {known}.")
        judged = {stage for stage, _ in policy.bounds}
        bare: list[tuple[str, str]] = []
        if "likelihood" not in judged:
            bare += [(f"likelihood.{key}", "kl_max") for key in counting["likelihood"]]
        if "tasks" not in judged:
            own = policy.examples.keys() - policy.kinds
            places = [f"tasks.{key}" for key in counting["tasks"] if not policy.kinds]
            places += [f"tasks.kinds.{kind}.minimum_examples" for kind in own]
            bare += [(place, "retention_min") for place in places]
        for place, bound in bare:
            raise RequestError(
                f"Policy {self.where}, {place}: decides nothing without a {bound}. Give "
                f"{place.partition('.')[0]}.{bound} too, or leave it out."
            )

    def numbers(self, section: JSON, ranges: Mapping[str, Range], place: str) -> dict[str, Any]:
        """Those of `ranges` that the section has."""
        numbers = {}
        for key in ranges.keys() & section.keys():
            value, (kind, least, most) = section[key], ranges[key]
            whole = isinstance(value, int) and not isinstance(value, bool)
            typed = whole or (kind is float and isinstance(value, float))
            if not typed or not least <= value <= most:
                expected = "a whole number" if kind is int else "a number"
                expected += f" from {least:g} to {most:g}"
                raise self.fault(f"{place}.{key}", value, expected)
            numbers[key] = kind(value)
        return numbers

    def table(self, parent: JSON, name: str, place: str, known: tuple[str, ...] = ()) -> JSON:
        """A table of `parent`, of `known` keys if there are any."""
        section = parent.get(name, {})
        if not isinstance(section, dict):
            raise self.fault(place, section, f"a table: [{place}] on a line of its own, keys below")
        if known:
            self.check_keys(section, known, place)
        return section

    def check_keys(self, section: JSON, known: tuple[str, ...], place: str) -> None:
        for key in section:
            if key not in known:
                at = f"{place}.{key[:40]}" if place else key[:40]
                raise RequestError(
                    f"Policy {self.where} has an unknown key {at!r}. {_near(key, known)}It takes "
                    f"{', '.join(known)}."
                )

    def fault(self, key: str, value: Any, expected: str) -> RequestError:
        try:
            shown = repr(value)[:60]
        except ValueError:  # a whole number of more than 4300 digits
            shown = "a huge number"
        return RequestError(f"Policy {self.where}, {key}: {shown} does not fit. Give {expected}.")


def _near(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name[:80], known, 1)
    return f"Did you mean {near[0]}? " if near else ""
