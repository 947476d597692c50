"""Conditions of rules about a model's config.json, as an engine reads it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from salient.diagnose.finding import Finding
from salient.diagnose.rule import Match, Outcome, Rule, apply_rules
from salient.diagnose.tables import read_rules
from salient.plan.declared_quantization import declared_quantization
from salient.plan.engine_options import accepts, began, releases

from .rule_context import RuleContext

_AT_THE_TOP = ("quantization_config", "compression_config")
# the first release whose 4-bit experts have biases, by method, and its file
_EXPERT_BIAS = {
    "awq": ((0, 11), "awq_marlin.py"),
    "gptq": ((0, 11), "gptq_marlin.py"),
    "compressed-tensors": ((0, 31), "compressed_tensors_moe_wna16.py"),
}
_BIASED_EXPERTS = ("gpt_oss",)  # families whose experts have biases


def _match(**values: object) -> Match:
    return Match(values=values, items=("",))


def _of_some_releases(context: RuleContext, match: Match) -> Match:
    """A warning where only some releases fail, and the release is unknown."""
    return match if context.version else replace(match, level="warning")


def _not_judged(context: RuleContext) -> Match | None:
    declared = declared_quantization(context.config or {})
    if not declared or declared.judged:
        return None
    values = {"path": declared.path, "method": declared.method or "missing"}
    return _match(reason=declared.reason, **values)


def _hidden(context: RuleContext, *, in_text_config: bool) -> Match | None:
    declared = declared_quantization(context.config or {})
    path = declared.path if declared else ""
    inner = path.removeprefix("text_config.")
    if not declared or path in _AT_THE_TOP or (inner in _AT_THE_TOP) is not in_text_config:
        return None
    match = _match(path=path, method=declared.method)
    return _of_some_releases(context, match) if in_text_config else match


def _asymmetric_experts(context: RuleContext) -> Match | None:
    declared = declared_quantization(context.config or {})
    packing = declared.packing if declared else None
    zeros = packing and packing.method == "compressed-tensors" and packing.zeros
    experts = bool(context.config) and not context.dense
    if not declared or not zeros or not experts:
        return None
    return _of_some_releases(context, _match(path=declared.path))


def _biased_experts(context: RuleContext) -> Match | None:
    declared = declared_quantization(context.config or {})
    row = _EXPERT_BIAS.get(declared.method) if declared else None
    model_type = (context.config or {}).get("model_type")
    if not declared or not row or model_type not in _BIASED_EXPERTS:
        return None
    if context.version and context.version >= row[0]:
        return None
    values = {"since": ".".join(map(str, row[0])), "file": row[1], "model_type": model_type}
    return _of_some_releases(context, _match(method=declared.method, **values))


def _architecture(context: RuleContext) -> str:
    names = (context.config or {}).get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def _unknown_architecture(context: RuleContext) -> Match | None:
    name, version = _architecture(context), context.version
    if context.settings.engine == "sglang":
        return None  # of its registry there is no table
    if not name or accepts("vllm", name, version or releases("vllm")[-1], "architectures"):
        return None
    first = began("vllm", name, "architectures")
    release = f"vLLM {'.'.join(map(str, version))}" if version else "vLLM up to 0.33"
    since, step = "", "Check the spelling, or run it with Transformers or llama.cpp."
    if first and version and version < first:
        text = ".".join(map(str, first))
        since, step = f" yet: it came with {text}", f"Upgrade vLLM to {text} or newer."
    return _match(engine=release, architecture=name, since=since, step=step)


def _text_part(context: RuleContext) -> Match | None:
    """A text part whose whole model is multimodal, and came before it to the engine."""
    name, config = _architecture(context), context.config or {}
    parent = name.replace("ForCausalLM", "ForConditionalGeneration")
    model_type = str(config.get("model_type", ""))
    whole = began("vllm", parent, "architectures")
    own = began("vllm", name, "architectures")
    late = whole and (own is None or own > whole)
    if parent == name or not model_type.endswith("_text") or not late:
        return None
    return _match(parent=parent, model_type=model_type, architecture=name)


_CONDITIONS: dict[str, Callable[[RuleContext], Outcome]] = {
    "quantization-not-judged": _not_judged,
    "quantization-hidden": lambda c: _hidden(c, in_text_config=False),
    "quantization-in-text-config": lambda c: _hidden(c, in_text_config=True),
    "experts-asymmetric": _asymmetric_experts,
    "experts-bias": _biased_experts,
    "architecture-unknown": _unknown_architecture,
    "text-part-only": _text_part,
}
RULES: tuple[Rule[RuleContext], ...] = read_rules(
    Path(__file__).with_name("config_rules.toml"), _CONDITIONS
)


def judge_config(context: RuleContext) -> list[Finding]:
    """What the config.json alone shows of how an engine will load the model."""
    return apply_rules(RULES, context, context.version, server=context.server)
