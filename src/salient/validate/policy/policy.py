"""Policies: the figures that a quantized checkpoint has to reach, read from TOML.

A policy has thresholds by stage; what it does not name, it does not judge. The shipped ones explain
each figure in their comments. Imports no torch.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from os.path import expanduser  # leaves an unknown user as it is
from pathlib import Path
from typing import Any, Literal, get_args

from salient.core.errors import RequestError

SHIPPED = ("strict", "balanced", "lenient")
LARGEST_FILE = 64 * 2**10  # bytes; a policy has a page
MOST_KINDS = 100

# upper: the pessimistic end of the interval has to satisfy the bound; middle: what was measured
Use = Literal["upper", "middle"]
Direction = Literal["at most", "at least"]


@dataclass(frozen=True)
class Threshold:
    """A key of a policy: which measurement it bounds, and what its value may be.

    what: the measurement's name; unit: of the bound; least, most: the range of sensible bounds
    """

    stage: str
    key: str
    what: str
    direction: Direction
    unit: str
    least: float
    most: float

    @property
    def by_kind(self) -> bool:
        """Whether kinds of examples may have bounds of their own."""
        return self.key == "retention_min"


THRESHOLDS = (
    Threshold("likelihood", "kl_max", "kl", "at most", "nats a token", 0.0, 10.0),
    Threshold("likelihood", "top1_min", "top1", "at least", "share of tokens", 0.0, 1.0),
    Threshold(
        "likelihood",
        "perplexity_increase_max",
        "perplexity_increase",
        "at most",
        "ratio - 1",
        0,
        10,
    ),
    Threshold("tasks", "retention_min", "retention", "at least", "of the reference's", 0.0, 1.0),
    Threshold("context", "kl_growth_max", "kl_growth", "at most", "last / first quarter", 1, 100),
    Threshold(
        "context",
        "retrieval_retention_min",
        "retrieval_retention",
        "at least",
        "of the reference's",
        0.0,
        1.0,
    ),
    Threshold("load", "error_rate_max", "error_rate", "at most", "share of requests", 0.0, 1.0),
    Threshold("load", "ttft_p90_max_s", "ttft_p90", "at most", "s", 1e-3, 3600.0),
    Threshold("load", "itl_p90_max_s", "itl_p90", "at most", "s", 1e-4, 60.0),
    Threshold("load", "throughput_min_tok_s", "throughput", "at least", "tokens/s", 1e-3, 1e8),
)
STAGES = tuple(dict.fromkeys(t.stage for t in THRESHOLDS))
_RETENTION = next(t for t in THRESHOLDS if t.by_kind)
# numbers of [tasks] that say when a retention counts: key -> (type, least, most)
_COUNTING = {"minimum_examples": (int, 1, 10**6), "significance": (float, 1e-6, 0.5)}
_KIND_KEYS = ("retention_min", "minimum_examples")


@dataclass(frozen=True)
class Policy:
    """Thresholds, and how measurements are held against them.

    bounds: (stage, key) -> bound, of the thresholds that the policy names
    kinds: kind of task -> bound of its own retention, next to the one of all examples
    examples: kind -> its own minimum of examples; minimum_examples: of the others and of all
    significance: with `middle`, a retention below its bound fails only when the loss has a smaller
        p-value than this
    """

    name: str
    use: Use = "upper"
    bounds: dict[tuple[str, str], float] = field(default_factory=dict)
    kinds: dict[str, float] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    minimum_examples: int = 1
    significance: float | None = None


def read_policy(name_or_path: str) -> Policy:
    """The policy called `name_or_path`: a shipped name (SHIPPED) or a TOML file.

    Raises RequestError naming file and key of an invalid value.
    """
    if name_or_path in SHIPPED:
        path = files("salient.validate.policy") / "data" / f"{name_or_path}.toml"
        return _Reader(name_or_path).policy(tomllib.loads(path.read_text(encoding="utf-8")))
    return _Reader(name_or_path).policy(_toml(name_or_path))


def _toml(name: str) -> dict[str, Any]:
    path = Path(expanduser(name))
    try:
        if not path.is_file():
            raise RequestError(_no_file(name, path))
        with path.open("rb") as file:
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

    def policy(self, document: dict[str, Any]) -> Policy:
        self.check_keys(document, ("use", *STAGES), "")
        use = document.get("use", "upper")
        if use not in get_args(Use):
            expected = "'upper' (the pessimistic end of the interval) or 'middle'"
            raise self.fault("use", use, expected)
        bounds = {}
        for stage in STAGES:
            section = self.table(document, stage, stage)
            own = {t.key: t for t in THRESHOLDS if t.stage == stage}
            extra = (*_COUNTING, "kinds") if stage == "tasks" else ()
            self.check_keys(section, (*own, *extra), stage)
            for key in own.keys() & section.keys():
                bounds[stage, key] = self.bound(own[key], section[key], f"{stage}.{key}")
        tasks = document.get("tasks", {})
        kinds, examples = self.kinds(tasks)
        counting = {
            key: self.number(tasks[key], fits, f"tasks.{key}")
            for key, fits in _COUNTING.items()
            if key in tasks
        }
        policy = Policy(Path(self.where).stem, use, bounds, kinds, examples, **counting)
        self.refuse_contradictions(policy, counting)
        return policy

    def kinds(self, tasks: dict[str, Any]) -> tuple[dict[str, float], dict[str, int]]:
        kinds = self.table(tasks, "kinds", "tasks.kinds")
        if len(kinds) > MOST_KINDS:
            raise RequestError(
                f"Policy {self.where}, tasks.kinds: {len(kinds)} kinds. Give at most {MOST_KINDS}."
            )
        bounds, examples = {}, {}
        for kind in kinds:
            place = f"tasks.kinds.{kind[:40]}"
            section = self.table(kinds, kind, place)
            self.check_keys(section, _KIND_KEYS, place)
            if "retention_min" in section:
                value = section["retention_min"]
                bounds[kind] = self.bound(_RETENTION, value, f"{place}.retention_min")
            if "minimum_examples" in section:
                value, fits = section["minimum_examples"], _COUNTING["minimum_examples"]
                examples[kind] = self.number(value, fits, f"{place}.minimum_examples")
        return bounds, examples

    def refuse_contradictions(self, policy: Policy, counting: Iterable[str]) -> None:
        """Refuse settings without effect."""
        if not policy.bounds and not policy.kinds:
            known = ", ".join(f"{t.stage}.{t.key}" for t in THRESHOLDS)
            raise RequestError(f"Policy {self.where} has no rule. Give at least one of {known}.")
        if ("tasks", "retention_min") in policy.bounds:
            return
        bare = [f"tasks.{key}" for key in counting if not policy.kinds]
        bare += [f"tasks.kinds.{k}.minimum_examples" for k in policy.examples.keys() - policy.kinds]
        if bare:
            raise RequestError(
                f"Policy {self.where}, {bare[0]}: decides nothing without a retention_min. Give "
                "tasks.retention_min too, or leave it out."
            )

    def bound(self, threshold: Threshold, value: Any, key: str) -> float:
        return self.number(value, (float, threshold.least, threshold.most), key)

    def number(self, value: Any, fits: tuple[type, float, float], key: str) -> Any:
        kind, least, most = fits
        whole = isinstance(value, int) and not isinstance(value, bool)
        typed = whole or (kind is float and isinstance(value, float))
        if not typed or not least <= value <= most:
            expected = "a whole number" if kind is int else "a number"
            raise self.fault(key, value, f"{expected} from {least:g} to {most:g}")
        return kind(value)

    def table(self, parent: dict[str, Any], name: str, key: str) -> dict[str, Any]:
        section = parent.get(name, {})
        if not isinstance(section, dict):
            raise self.fault(key, section, f"a table: [{key}] on a line of its own, keys below")
        return section

    def check_keys(self, section: dict[str, Any], known: tuple[str, ...], place: str) -> None:
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
