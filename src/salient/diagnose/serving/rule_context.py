"""Facts of rules about serving settings, and the form of those rules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from salient.core.model_files import as_object
from salient.diagnose.env_vars import plain
from salient.diagnose.rule import Match, Rule
from salient.diagnose.steps import DTYPES, ServerFacts
from salient.plan.declared_quantization import declared_quantization, quantization_parts
from salient.plan.gpus import Gpu
from salient.plan.vllm.versions import Version

from .server_arguments import value_of
from .settings import UNKNOWN, Engine, ServingSettings

AWQ_METHODS = ("awq", "awq_marlin", "auto_awq", "marlin")
HALF, SINGLE = ("half", "float16"), ("float", "float32")
_ON = ("1", "true", "yes", "on")
_NESTED = ("text_config", "llm_config", "language_config")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class RuleContext:
    """Settings with the device, the release and the model's config.json, as far as known."""

    settings: ServingSettings
    gpu: Gpu | None = None
    version: Version | None = None
    config: dict[str, Any] | None = None

    def value(self, key: str) -> Any:
        """The value of an argument, None where it is not set or not known."""
        value = self.settings.values.get(key)
        return None if isinstance(value, str) and value == UNKNOWN else value

    def is_set(self, key: str) -> bool:
        """Whether the argument is there, known or not."""
        return self.settings.values.get(key) is not None

    def text(self, key: str) -> str:
        """An argument's text in lower case, "" where it has none."""
        value = self.value(key)
        return value.strip().lower() if isinstance(value, str) else ""

    def number(self, key: str, default: float | None = None) -> float | None:
        """An argument's number; `default` where it is not set."""
        value = self.value(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        return default if not self.is_set(key) else None

    def size(self, key: str) -> int:
        """A number of processes, GPUs or nodes: 1 where it is not set, 0 where it is not known."""
        value = self.number(key, 1)
        return int(value) if value is not None and 1 <= value < 2**20 else 0

    def flag(self, key: str) -> bool | None:
        value = self.value(key)
        return value if isinstance(value, bool) else None

    def variable(self, name: str) -> str:
        return self.settings.environment.get(name, "").strip()

    def on(self, name: str) -> bool:
        """Whether a variable is set to a true value."""
        return self.variable(name).lower() in _ON

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

    @property
    def is_server(self) -> bool:
        return self.settings.kind != "python" and not self.settings.entry

    def config_size(self, *names: str) -> int:
        """The first of these whole numbers in the model's config, 0 for none."""
        values = (part.get(name) for part in self._parts() for name in names)
        sizes = (v for v in values if isinstance(v, int) and not isinstance(v, bool))
        return next((size for size in sizes if 0 < size < 2**40), 0)

    def config_has(self, *names: str) -> bool:
        """Whether the model's config has one of these entries, and not an empty one."""
        return any(part.get(name) for part in self._parts() for name in names)

    def _parts(self) -> list[dict[str, Any]]:
        config = as_object(self.config)
        nested = [as_object(config.get(name)) for name in _NESTED]
        return [*(part for part in nested if part), config]

    @property
    def head_dim(self) -> int:
        """The size of an attention head, 0 where it is not known."""
        heads = self.config_size("num_attention_heads")
        derived = self.config_size("hidden_size") // heads if heads else 0
        return self.config_size("head_dim") or derived

    @property
    def quantization(self) -> dict[str, Any]:
        """The config's quantization_config, {} where there is none."""
        parts = quantization_parts(self.config or {})
        return parts[0][1] if parts else {}

    @property
    def method(self) -> str:
        """The checkpoint's quantization method, "" where its config has none."""
        declared = declared_quantization(self.config or {})
        return declared.method if declared else ""

    @property
    def group_size(self) -> int:
        """Inputs per scale, by the checkpoint's config; 0 where it has none."""
        config = self.quantization
        first = next(iter(as_object(config.get("config_groups")).values()), None)
        weights = as_object(as_object(first).get("weights"))
        sizes = (config.get("group_size"), config.get("q_group_size"), weights.get("group_size"))
        known = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool)]
        return known[0] if known and 0 < known[0] < 2**20 else 0

    @property
    def server(self) -> ServerFacts:
        """What steps depend on."""
        values, engine = self.settings.values, self.settings.engine
        dtype = self.text("dtype")
        drafts = self.is_set("speculative_config") or self.is_set("speculative_model")
        complete = bool(values) and not self.is_set("config")
        return ServerFacts(
            engine=engine if values else None,
            version=(self.version if engine == "vllm" else None) or self.settings.release,
            device=self.vendor or None,
            capability=self.capability / 10 if self.capability else None,
            memory=self.gpu.memory if self.gpu else None,
            tp=self.size("tensor_parallel_size") or None if values else None,
            dtype=DTYPES.get(dtype, dtype) if dtype not in ("", "auto") else None,
            method=self.method or ("" if self.config and not self.quantization else None),
            group=self.group_size or None,
            experts=self.config_has(*_EXPERTS) if self.config else None,
            draft=drafts if complete else None,
            utilization=self.number("gpu_memory_utilization"),
            arguments={key: value for key in values if (value := self.value(key)) is not None},
            complete=complete,
        )

    @property
    def dense(self) -> bool:
        """Whether the config is known and has no experts."""
        return bool(self.config) and not self.config_has(*_EXPERTS)

    @property
    def awq(self) -> bool:
        """Whether it is an AWQ model, by its config, its name or the settings."""
        if self.config is not None and self.quantization:
            return self.method == "awq"
        method = self.text("quantization") in AWQ_METHODS
        return method or ("awq" in self.text("model") and self.config is None)


Condition = Callable[[RuleContext], bool | str | list[Match]]


@dataclass(frozen=True)
class ServingRule(Rule[RuleContext]):
    """A rule about settings. Its condition returns a bool, or a text that is {value} in its texts.

    keys: its arguments in lower case, its variables in upper case; by default those of `change`
    change: the new text of each key, None to leave it out
    """

    _: KW_ONLY
    keys: Sequence[str] = ()
    change: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    engines: Sequence[Engine] = ("vllm",)

    @property
    def subjects(self) -> Sequence[str]:
        return self.keys or tuple(self.change)

    def matches(self, facts: RuleContext) -> list[Match]:
        """The case of these settings: its evidence is the line of each key that is set."""
        outcome = self.when(facts) if facts.settings.engine in self.engines else None
        if not outcome:
            return []
        if isinstance(outcome, list):
            return [match for match in outcome if isinstance(match, Match)]
        settings = facts.settings
        value = plain(outcome) if isinstance(outcome, str) else ""
        keys = [key for key in self.subjects if settings.has(key)] or self.subjects[:1]
        steps = [
            step
            for key, new in self.change.items()
            for step in _diff(settings, key, new and new.format(value=value))
        ]
        return [Match([settings.place(key) for key in keys], {"value": value}, steps, count=1)]


def _diff(settings: ServingSettings, key: str, new: str | None) -> list[str]:
    """A change of one key as a diff, in the file's own spelling."""
    steps = ["- " + settings.current(key)] if settings.has(key) else []
    if new is None:
        return [*steps, "+ (leave it out)"] if steps else []
    if key.islower() and not (steps or settings.has_option(key)):
        return []
    value = value_of(key, new)
    if key.isupper() and not steps:
        return [f"export {key}={value}"]
    return [*steps, "+ " + settings.spelled(key, value)]
