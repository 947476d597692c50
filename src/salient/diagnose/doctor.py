"""The verb doctor: one ranked list of findings about a deployment.

Reads a checkpoint or a config.json, a log, serving settings and this machine, each by its own
module, which is imported on demand. The log's version and the settings' tensor parallelism count
where the checkpoint's kernels are judged.
"""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salient.core.errors import ModelError, RequestError
from salient.core.model_files import read_json
from salient.core.progress import Progress
from salient.plan.device_names import find_gpu
from salient.plan.gpus import Gpu
from salient.plan.vllm.versions import Version, parse_version

from .finding import BAD, Finding, ranked
from .options import DoctorOptions
from .steps import ServerFacts, consistent

if TYPE_CHECKING:
    from salient.diagnose.checkpoint.check import CheckpointReading
    from salient.diagnose.log.log_facts import LogFacts
    from salient.diagnose.serving.rule_context import RuleContext

    from .engine_support import EngineSupport

MAX_TP = 1024


@dataclass
class Diagnosis:
    """What was read, the findings (worst first), and the engines that can load the checkpoint.

    not_judged: why finding nothing wrong does not mean that nothing is, "" if it does
    security: whether the findings about security are shown
    """

    read: list[str] = field(default_factory=list[str])
    findings: list[Finding] = field(default_factory=list[Finding])
    facts: "LogFacts | None" = None
    checkpoint: "CheckpointReading | None" = None
    engines: "tuple[EngineSupport, ...]" = ()
    not_judged: str = ""
    security: bool = False

    @property
    def bad(self) -> bool:
        """Whether anything is wrong or slow."""
        return any(finding.level in BAD for finding in self.findings)

    @property
    def undecided(self) -> bool:
        """Whether nothing is wrong or slow in what was read, and more would have to be read."""
        return bool(self.not_judged) and not self.bad


def diagnose(options: DoctorOptions) -> Diagnosis:
    """Read and judge everything that `options` names.

    Raises ModelError, CheckpointError or RequestError for what cannot be read at all.
    """
    if not (options.target or options.log or options.config or options.env):
        raise RequestError(
            "Nothing to diagnose. Give a checkpoint folder, --log FILE, --config FILE or --env."
        )
    diagnosis = Diagnosis(security=options.security)
    gpu = find_gpu(options.gpu) if options.gpu else None
    config: dict[str, Any] = {}
    if options.target:
        config = _read_target(diagnosis, str(options.target), options.progress)
    base, contexts = _contexts(options, gpu, config)
    known = contexts[0] if len(contexts) == 1 else base  # of the log, the config and the device
    if options.log:
        _read_log(diagnosis, str(options.log), known.server, options.progress)
    version = _version(options, diagnosis.facts)
    tp = options.tensor_parallel_size or (diagnosis.facts.tensor_parallel if diagnosis.facts else 1)
    if contexts and contexts[0].settings.entry:
        from .judge_deployment import judge_deployment

        count = len(contexts)
        diagnosis.read.append(f"{options.config}: {count} deployment{'s'[: count > 1]}")
        for context in contexts:
            diagnosis.findings += judge_deployment(context)
    elif contexts:
        settings_tp = _judge_settings(diagnosis, replace(known, version=version))
        tp = options.tensor_parallel_size or settings_tp or tp
    if options.env:
        from salient.diagnose.host.host_rules import judge_environment
        from salient.diagnose.host.probe import read_environment

        diagnosis.read.append("this machine")
        diagnosis.findings += judge_environment(read_environment())
    if config:
        from .engine_support import engine_support
        from .judge_deployment import judge_model

        context = replace(known, version=version)
        diagnosis.findings += judge_model(context, diagnosis.checkpoint, tp)
        diagnosis.engines = engine_support(config, diagnosis.checkpoint, tp, version, gpu)
    findings = ranked(_without_praise(diagnosis.findings))
    diagnosis.findings = findings if len(contexts) > 1 else consistent(findings)
    return diagnosis


def _without_praise(findings: list[Finding]) -> list[Finding]:
    """The findings; where there is an error, without those on what is right."""
    failed = any(finding.level == "error" for finding in findings)
    return [one for one in findings if not (failed and one.level == "good")]


def follow_log(options: DoctorOptions) -> Diagnosis:
    """Read a log as it grows, until Ctrl-C, and pass each finding to `on_finding`.

    Raises RequestError if there is no log to follow.
    """
    if not options.log or options.log == "-":
        raise RequestError("--follow needs a log: give --log FILE.")
    from salient.diagnose.log.log_reader import follow

    diagnosis = Diagnosis([f"{options.log}, as it grew"], security=options.security)
    with suppress(KeyboardInterrupt):
        for finding in follow(str(options.log)):
            diagnosis.findings.append(finding)
            if options.on_finding:
                options.on_finding(finding)
    return diagnosis


def _read_log(diagnosis: Diagnosis, log: str, known: ServerFacts, progress: Progress) -> None:
    """known: of the server, by the settings, the checkpoint and the options"""
    from salient.diagnose.log.log_reader import read_log

    reading = read_log(log, known=known, progress=progress)
    if not reading.recognized:
        raise RequestError(
            f"{log} has no line of an engine's log. Give what the server prints (vLLM, SGLang, "
            "TGI, Ollama, llama.cpp); serving settings go to --config."
        )
    diagnosis.facts = reading.facts
    facts = reading.facts
    engine = f", {facts.engine} {facts.version}".rstrip() if facts.engine else ""
    diagnosis.read.append(f"{log}: {facts.lines:,} lines{engine}")
    diagnosis.findings += reading.findings
    if not reading.served:
        diagnosis.not_judged = f"the log ends before the server answers: {reading.last_line:.120}"


def _version(options: DoctorOptions, facts: "LogFacts | None") -> Version | None:
    """vLLM's version by the options, else by the log."""
    if options.engine_version:
        return parse_version(options.engine_version)
    if facts and facts.engine == "vllm" and facts.release >= (0, 6):
        return facts.release
    return None


def _read_target(diagnosis: Diagnosis, target: str, progress: Progress) -> dict[str, Any]:
    """The config.json of a checkpoint folder, or of the named file."""
    path = Path(target).expanduser()
    if path.is_dir():
        from salient.diagnose.checkpoint.check import read_checkpoint

        diagnosis.checkpoint = reading = read_checkpoint(path, progress=progress)
        diagnosis.read.append(f"{path}: {reading.modules} quantized linears")
        diagnosis.findings += reading.findings
        return reading.config
    if not path.is_file():
        raise ModelError(
            f"No checkpoint {target!r} here. Give a folder with config.json and safetensors, or a "
            "config.json; download a model of the Hub first (`hf download`)."
        )
    if path.suffix.lower() != ".json":
        raise ModelError(
            f"{path} is not a config.json. Give a checkpoint folder or its config.json; a log "
            "goes to --log, serving settings to --config."
        )
    diagnosis.read.append(str(path))
    return read_json(path)


def _contexts(
    options: DoctorOptions, gpu: Gpu | None, config: dict[str, Any]
) -> "tuple[RuleContext, list[RuleContext]]":
    """What the options and the checkpoint tell of a server; the same with each one's settings."""
    from salient.diagnose.serving.read_settings import read_all_settings
    from salient.diagnose.serving.rule_context import RuleContext
    from salient.diagnose.serving.settings import ServingSettings

    none = ServingSettings(Path(), "json")
    base = RuleContext(none, gpu, _version(options, None), config or None)
    path = Path(options.config).expanduser() if options.config else None
    if path is None:
        return base, []
    if path.suffix.lower() == ".toml":
        from salient.diagnose.serving.deployment_settings import deployment_contexts

        return base, [_or_else(one, base) for one in deployment_contexts(path)]
    return base, [replace(base, settings=one) for one in read_all_settings(path)]


def _or_else(context: "RuleContext", base: "RuleContext") -> "RuleContext":
    """A deployment with the device, release and config of the options where it names none."""
    return replace(
        context,
        gpu=context.gpu or base.gpu,
        version=context.version or base.version,
        config=context.config or base.config,
    )


def _judge_settings(diagnosis: Diagnosis, context: "RuleContext") -> int | None:
    """Judge the serving settings; returns their tensor parallelism, None if unset or invalid."""
    from salient.diagnose.serving.serving_rules import judge_settings

    settings = context.settings
    diagnosis.read.append(f"{settings.path}: {settings.kind}")
    diagnosis.findings += judge_settings(
        settings, gpu=context.gpu, version=context.version, config=context.config
    )
    tp = settings.values.get("tensor_parallel_size")
    return tp if type(tp) is int and 1 <= tp <= MAX_TP else None
