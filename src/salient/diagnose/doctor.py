"""The verb doctor: whatever is there of a deployment -> one ranked list of findings.

A checkpoint or a config.json, a log, serving settings, this machine: each is read by its own
module, imported only if it is asked for; here they are put together, so that the log's version and
the settings' tensor parallelism are known where the checkpoint's kernels are judged.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salient.core.errors import ModelError, RequestError
from salient.core.model_files import read_json
from salient.core.progress import Progress
from salient.plan.gpus import Gpu, find_gpu
from salient.plan.vllm.versions import parse_version

from .finding import Finding, ranked

if TYPE_CHECKING:
    from salient.diagnose.checkpoint.check import CheckpointReading
    from salient.diagnose.log.log_facts import LogFacts

    from .engine_support import EngineSupport


@dataclass(frozen=True)
class DoctorOptions:
    """The words of the command line; what is None is not looked at."""

    target: str | None = None
    log: str | None = None
    config: str | None = None
    gpu: str | None = None
    tp: int | None = None
    engine_version: str | None = None
    env: bool = False


@dataclass
class Diagnosis:
    """What was read, what was found (worst first), and who can load the checkpoint."""

    read: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    facts: "LogFacts | None" = None
    checkpoint: "CheckpointReading | None" = None
    loaders: "list[EngineSupport]" = field(default_factory=list)


def diagnose(request: DoctorOptions, progress: Progress) -> Diagnosis:
    """Read everything that `request` names, and judge it together.

    Raises ModelError, CheckpointError or RequestError for what cannot be read at all.
    """
    if not (request.target or request.log or request.config or request.env):
        raise RequestError(
            "Nothing to look at. Give a checkpoint folder, --log FILE, --config FILE or --env."
        )
    made = Diagnosis()
    gpu = find_gpu(request.gpu) if request.gpu else None
    if request.log:
        _read_log(made, request.log, progress)
    version = _version(request, made.facts)
    config = _read_target(made, request.target, progress) if request.target else {}
    tp = _tp(request, made.facts)
    if request.config:
        tp = _read_settings(made, request, gpu, version, config) or tp
    if request.env:
        from salient.diagnose.host.probe import judge_environment, read_environment

        made.read.append("this machine")
        made.findings += judge_environment(read_environment())
    if config:
        from .engine_support import judge_kernel, loaders

        made.loaders = loaders(config, made.checkpoint, tp, version)
        if gpu:
            made.findings += judge_kernel(config, made.checkpoint, gpu, tp, version)
    made.findings = ranked(made.findings)
    return made


def findings_of(request: DoctorOptions) -> Iterator[Finding]:
    """Each finding of a growing log when it first appears; ends only when it is interrupted.

    Raises RequestError where there is no log to follow.
    """
    if not request.log or request.log == "-":
        raise RequestError("--follow needs a log: give --log FILE.")
    from salient.diagnose.log.log_reader import follow

    return follow(request.log)


def _read_log(made: Diagnosis, log: str, progress: Progress) -> None:
    from salient.diagnose.log.log_reader import read_log

    reading = read_log(log, progress=progress)
    if not (reading.findings or reading.facts.engine):
        raise RequestError(
            f"{log} has no line that vLLM or SGLang is known to write. Give the engine's own log: "
            "what `vllm serve` prints, whole if possible."
        )
    made.facts = reading.facts
    made.read.append(f"{log}: {reading.facts.lines:,} lines")
    made.findings += reading.findings


def _version(request: DoctorOptions, facts: "LogFacts | None") -> tuple[int, int] | None:
    """vLLM's version as told, else as the log has it."""
    if request.engine_version:
        return parse_version(request.engine_version)
    if facts and facts.engine == "vllm" and facts.release >= (0, 6):
        return facts.release
    return None


def _tp(request: DoctorOptions, facts: "LogFacts | None") -> int:
    if request.tp is not None:
        if not 1 <= request.tp <= 1024:
            raise RequestError(f"--tp {request.tp} does not fit: give 1 to 1024.")
        return request.tp
    return facts.tensor_parallel if facts else 1


def _read_target(made: Diagnosis, target: str, progress: Progress) -> dict[str, Any]:
    """The config.json of a checkpoint folder, or of the file named alone."""
    path = Path(target).expanduser()
    if path.is_dir():
        from salient.diagnose.checkpoint.check import read_checkpoint

        made.checkpoint = read_checkpoint(path, progress=progress)
        made.read.append(f"{path}: {made.checkpoint.modules} quantized linears")
        made.findings += made.checkpoint.findings
        return made.checkpoint.config
    if path.is_file():
        if path.suffix.lower() != ".json":
            raise ModelError(
                f"{path} is no config.json. Give a checkpoint folder or its config.json; a log "
                "goes to --log, serving settings to --config."
            )
        made.read.append(str(path))
        return read_json(path)
    raise ModelError(
        f"No checkpoint {target!r} here. Give a folder with config.json and safetensors, or a "
        "config.json; a model of the Hub must be fetched first (`hf download`)."
    )


def _read_settings(
    made: Diagnosis,
    request: DoctorOptions,
    gpu: Gpu | None,
    version: tuple[int, int] | None,
    config: dict[str, Any],
) -> int | None:
    """Judge the serving settings; their tensor parallelism, if no other is told."""
    from salient.diagnose.serving.read_settings import read_settings
    from salient.diagnose.serving.serving_rules import judge_settings

    settings = read_settings(Path(str(request.config)).expanduser())
    made.read.append(f"{settings.path}: {settings.kind}")
    made.findings += judge_settings(settings, gpu=gpu, version=version, config=config or None)
    told = settings.values.get("tensor_parallel_size")
    valid = request.tp is None and type(told) is int and 1 <= told <= 1024
    return told if valid else None
