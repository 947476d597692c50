"""A model's config.json with the kernel on its device, and one deployment of several."""

from dataclasses import replace

from .checkpoint.check import CheckpointReading
from .engine_support import judge_kernel
from .finding import Finding, ranked
from .serving.config_conditions import judge_config
from .serving.rule_context import RuleContext
from .serving.serving_rules import judge_settings
from .steps import consistent


def judge_model(context: RuleContext, reading: CheckpointReading | None, tp: int) -> list[Finding]:
    """How vLLM loads the model of a config.json, and the kernel on the device, if it is known."""
    findings = judge_config(context) if context.config else []
    if context.config and context.gpu:
        kernel = judge_kernel(context.config, reading, context.gpu, tp, context.version)
        fails = any(finding.level == "error" for finding in findings)
        findings += [finding for finding in kernel if finding.level != "good" or not fails]
    return findings


def judge_deployment(context: RuleContext) -> list[Finding]:
    """The findings about a deployment, each with its name in the title."""
    settings, version = context.settings, context.version or context.settings.version
    findings = judge_settings(settings, gpu=context.gpu, version=version, config=context.config)
    if settings.engine == "vllm":
        tp = max(context.size("tensor_parallel_size"), 1)
        findings += judge_model(replace(context, version=version), None, tp)
    named = [replace(one, title=f"{settings.entry}: {one.title}") for one in ranked(findings)]
    return consistent(named)
