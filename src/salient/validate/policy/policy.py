"""Policies: which figures a quantized checkpoint has to reach, read from TOML.

A policy holds thresholds by stage; what it does not name, it does not judge. The shipped ones say
in their comments why each figure is what it is. Judging is in gate.py. Imports no torch.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from os.path import expanduser  # leaves a user that there is not as it is
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
_RETENTION = next(t for t in THRESHOLDS if t.key == "retention_min")
# numbers of [tasks] that say when a retention counts: key -> (type, least, most)
_COUNTING = {"minimum_examples": (int, 1, 10**6), "significance": (float, 1e-6, 0.5)}
_KIND_KEYS = ("retention_min", "minimum_examples")


@dataclass(frozen=True)
class Policy:
    """What is asked.

    bounds: (stage, key) -> bound, of the thresholds that the policy names
    kinds: kind of task -> bound of its own retention, besides the one of all examples together
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

    Raises RequestError naming file and key where something does not fit.
    """
    if name_or_path in SHIPPED:
        where = files("salient.validate.policy") / "data" / f"{name_or_path}.toml"
        return _policy(tomllib.loads(where.read_text(encoding="utf-8")), name_or_path)
    return _policy(_toml(name_or_path), name_or_path)


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


def _policy(read: dict[str, Any], where: str) -> Policy:
    _known(read, ("use", *STAGES), where, "")
    use = read.get("use", "upper")
    if use not in get_args(Use):
        raise _wrong(where, "use", use, "'upper' (the pessimistic end of the interval) or 'middle'")
    sections = {stage: _table(read, stage, where, stage) for stage in STAGES}
    bounds = {}
    for stage, section in sections.items():
        own = {t.key: t for t in THRESHOLDS if t.stage == stage}
        extra = (*_COUNTING, "kinds") if stage == "tasks" else ()
        _known(section, (*own, *extra), where, stage)
        for key in own.keys() & section.keys():
            bounds[stage, key] = _bound(own[key], section[key], where, f"{stage}.{key}")
    tasks = sections["tasks"]
    kinds, examples = _kinds(tasks, where)
    counting = {
        key: _number(tasks[key], fits, where, f"tasks.{key}")
        for key, fits in _COUNTING.items()
        if key in tasks
    }
    policy = Policy(Path(where).stem, use, bounds, kinds, examples, **counting)
    _refuse_contradictions(policy, counting, where)
    return policy


def _kinds(tasks: dict[str, Any], where: str) -> tuple[dict[str, float], dict[str, int]]:
    named = _table(tasks, "kinds", where, "tasks.kinds")
    if len(named) > MOST_KINDS:
        raise RequestError(
            f"Policy {where}, tasks.kinds: {len(named)} kinds. Give at most {MOST_KINDS}."
        )
    bounds, examples = {}, {}
    for kind in named:
        place = f"tasks.kinds.{kind[:40]}"
        section = _table(named, kind, where, place)
        _known(section, _KIND_KEYS, where, place)
        if "retention_min" in section:
            value = section["retention_min"]
            bounds[kind] = _bound(_RETENTION, value, where, f"{place}.retention_min")
        if "minimum_examples" in section:
            fits, key = _COUNTING["minimum_examples"], f"{place}.minimum_examples"
            examples[kind] = _number(section["minimum_examples"], fits, where, key)
    return bounds, examples


def _refuse_contradictions(policy: Policy, counting: Iterable[str], where: str) -> None:
    """Settings that decide nothing: whoever wrote them believes that they do."""
    if not policy.bounds and not policy.kinds:
        known = ", ".join(f"{t.stage}.{t.key}" for t in THRESHOLDS)
        raise RequestError(f"Policy {where} asks nothing. Give at least one of {known}.")
    if ("tasks", "retention_min") in policy.bounds:
        return
    bare = [f"tasks.{key}" for key in counting if not policy.kinds]
    bare += [f"tasks.kinds.{k}.minimum_examples" for k in policy.examples.keys() - policy.kinds]
    if bare:
        raise RequestError(
            f"Policy {where}, {bare[0]}: decides nothing without a retention_min. Give "
            "tasks.retention_min too, or leave it out."
        )


def _bound(threshold: Threshold, value: Any, where: str, key: str) -> float:
    return _number(value, (float, threshold.least, threshold.most), where, key)


def _number(value: Any, fits: tuple[type, float, float], where: str, key: str) -> Any:
    kind, least, most = fits
    whole = isinstance(value, int) and not isinstance(value, bool)
    typed = whole or (kind is float and isinstance(value, float))
    if not typed or not least <= value <= most:
        words = "a whole number" if kind is int else "a number"
        raise _wrong(where, key, value, f"{words} from {least:g} to {most:g}")
    return kind(value)


def _table(read: dict[str, Any], name: str, where: str, key: str) -> dict[str, Any]:
    found = read.get(name, {})
    if not isinstance(found, dict):
        raise _wrong(where, key, found, f"a table: [{key}] on a line of its own, keys below")
    return found


def _known(section: dict[str, Any], known: tuple[str, ...], where: str, place: str) -> None:
    for key in section:
        if key not in known:
            at = f"{place}.{key[:40]}" if place else key[:40]
            raise RequestError(
                f"Policy {where} has an unknown key {at!r}. {_near(key, known)}It takes "
                f"{', '.join(known)}."
            )


def _near(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name[:80], known, 1)
    return f"Did you mean {near[0]}? " if near else ""


def _wrong(where: str, key: str, value: Any, fits: str) -> RequestError:
    try:
        shown = repr(value)[:60]
    except ValueError:  # a whole number of more than 4300 digits
        shown = "a huge number"
    return RequestError(f"Policy {where}, {key}: {shown} does not fit. Give {fits}.")
