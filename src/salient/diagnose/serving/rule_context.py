"""What a rule about settings looks at, and what it says: the case and the row of the table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from salient.diagnose.env_vars import plain
from salient.diagnose.finding import Certainty, Finding, Level
from salient.plan.gpus import Gpu
from salient.plan.vllm.versions import EVER, OLDEST, Version

from .argument_values import value_of
from .settings import UNKNOWN, Engine, ServingSettings

AWQ_METHODS = ("awq", "awq_marlin", "auto_awq", "marlin")
HALF, SINGLE = ("half", "float16"), ("float", "float32")
_TRUE = ("1", "true", "yes", "on")
_NESTED = ("text_config", "llm_config", "language_config")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class RuleContext:
    """Settings with what is known about the device, the release and the model's config.json."""

    settings: ServingSettings
    gpu: Gpu | None = None
    version: Version | None = None
    config: dict[str, Any] | None = None

    def value(self, key: str) -> Any:
        """The value of an argument, None where it is not set or not known."""
        held = self.settings.values.get(key)
        return None if isinstance(held, str) and held == UNKNOWN else held

    def given(self, key: str) -> bool:
        """Whether the argument is there at all, known or not."""
        return self.settings.values.get(key) is not None

    def text(self, key: str) -> str:
        """An argument's text in lower case, "" where it has none."""
        held = self.value(key)
        return held.strip().lower() if isinstance(held, str) else ""

    def number(self, key: str, default: float | None = None) -> float | None:
        """An argument's number; `default` where it is not there."""
        held = self.value(key)
        if isinstance(held, int | float) and not isinstance(held, bool):
            return held
        return default if not self.given(key) else None

    def size(self, key: str) -> int:
        """A number of processes, GPUs or nodes: 1 where it is not set, 0 where it is not known."""
        held = self.number(key, 1)
        return int(held) if held is not None and 1 <= held < 2**20 else 0

    def flag(self, key: str) -> bool | None:
        held = self.value(key)
        return held if isinstance(held, bool) else None

    def variable(self, name: str) -> str:
        return self.settings.environment.get(name, "").strip()

    def on(self, name: str) -> bool:
        """Whether a variable is set to something true."""
        return self.variable(name).lower() in _TRUE

    @property
    def vendor(self) -> str:
        return self.gpu.vendor if self.gpu else ""

    @property
    def may_be_nvidia(self) -> bool:
        return self.vendor in ("", "nvidia")

    @property
    def capability(self) -> int:
        """CUDA compute capability, 0 where it is not known."""
        return self.gpu.capability if self.gpu else 0

    def counts(self, *names: str) -> int:
        """The first of these whole numbers that the model's config has, 0 for none."""
        for part in self._parts():
            for name in names:
                held = part.get(name)
                if isinstance(held, int) and not isinstance(held, bool) and 0 < held < 2**40:
                    return held
        return 0

    def holds(self, *names: str) -> bool:
        """Whether the model's config has one of these entries, and not an empty one."""
        return any(part.get(name) for part in self._parts() for name in names)

    def _parts(self) -> list[dict[str, Any]]:
        config = self.config if isinstance(self.config, dict) else {}
        nested = [config[name] for name in _NESTED if isinstance(config.get(name), dict)]
        return [*nested, config]

    @property
    def quantization(self) -> dict[str, Any]:
        """The config's quantization_config, {} where there is none."""
        found = [part.get("quantization_config") for part in reversed(self._parts())]
        return next((one for one in found if isinstance(one, dict)), {})

    @property
    def method(self) -> str:
        """How the checkpoint says that it is quantized, "" where it does not."""
        held = self.quantization.get("quant_method")
        return held.lower() if isinstance(held, str) else ""

    @property
    def dense(self) -> bool:
        """Whether the config is known and has no experts."""
        return bool(self.config) and not self.holds(*_EXPERTS)

    @property
    def awq(self) -> bool:
        """Whether the model is one of AWQ's, by its config, its name or the settings."""
        if self.config is not None and self.quantization:
            return self.method == "awq"
        asked = self.text("quantization") in AWQ_METHODS
        return asked or ("awq" in self.text("model") and self.config is None)


@dataclass(frozen=True)
class ServingRule:
    """A row: when it holds, and what is said then.

    keys: arguments in lower case, variables in upper case; the evidence is where they stand
    when: False where the rule does not hold; text stands for {0} in title, matters and do
    change: what to write instead, by key; None leaves the key out
    since, until: the releases that it holds for, the last one left out
    """

    id: str
    level: Level
    title: str
    keys: tuple[str, ...]
    when: Callable[[RuleContext], bool | str]
    certainty: Certainty = "certain"
    matters: str = ""
    change: tuple[tuple[str, str | bool | None], ...] = ()
    do: tuple[str, ...] = ()
    rank: int = 50
    since: Version = OLDEST
    until: Version = EVER
    engines: tuple[Engine, ...] = ("vllm",)


def apply(rule: ServingRule, case: RuleContext) -> Finding | None:
    """The rule's finding about this case, None where it does not hold."""
    if case.settings.engine not in rule.engines:
        return None
    certainty = rule.certainty
    if case.version and not rule.since <= max(case.version, OLDEST) < rule.until:
        return None
    if case.version is None and (rule.since, rule.until) != (OLDEST, EVER):
        certainty = "likely" if certainty == "certain" else certainty
    held = rule.when(case)
    if held is False or held == "":
        return None
    word = plain(held) if isinstance(held, str) else ""
    return Finding(
        rule.id,
        rule.level,
        rule.title.replace("{0}", word),
        certainty,
        rule.matters.replace("{0}", word),
        tuple(_steps(rule, case, word)),
        tuple(case.settings.evidence(key) for key in _seen(rule, case)),
        rank=rule.rank,
    )


def _seen(rule: ServingRule, case: RuleContext) -> list[str]:
    """Those of the rule's keys that are there, or the first, which is not."""
    settings = case.settings
    there = [key for key in rule.keys if key in settings.values or key in settings.environment]
    return there or list(rule.keys[:1])


def _steps(rule: ServingRule, case: RuleContext, word: str) -> list[str]:
    """The change as a diff in the file's own spelling, then words."""
    settings, steps = case.settings, []
    for key, new in rule.change:
        held = settings.environment if key.isupper() else settings.values
        if key in held:
            steps.append("- " + settings.spelled(key, held[key]))
        text = new.replace("{0}", word) if isinstance(new, str) else new
        value = value_of(key, text) if isinstance(text, str) else text
        if new is not None and key.isupper() and key not in held:
            steps.append(f"export {key}={value}")
        elif new is not None:
            steps.append("+ " + settings.spelled(key, value))
        elif key in held:
            steps.append("+ (leave it out)")
    return steps + [step.replace("{0}", word) for step in rule.do]
