"""The deployments of a salient.toml as serving settings."""

import re
from pathlib import Path

from salient.core.errors import SalientError
from salient.core.model_files import read_json
from salient.diagnose.env_vars import plain
from salient.plan.deployments import Deployment, read_deployments
from salient.plan.vllm.versions import parse_version

from .rule_context import RuleContext
from .settings import ServingSettings

JUDGED = ("vllm", "sglang")  # engines whose arguments are judged


def deployment_contexts(path: Path) -> list[RuleContext]:
    """What the file states of each deployment, with the config.json of a local checkpoint.

    Raises RequestError naming the entry and field that are wrong.
    """
    text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    return [_context(path, one, text) for one in read_deployments(path).values()]


def _context(path: Path, deployment: Deployment, text: str) -> RuleContext:
    settings = ServingSettings(path, "toml", entry=plain(deployment.name))
    version = None
    if deployment.engine in JUDGED:
        settings.engine = "sglang" if deployment.engine == "sglang" else "vllm"
        settings.read_release(f"{settings.engine}=={deployment.engine_version}")
        if deployment.engine == "vllm" and deployment.engine_version:
            version = parse_version(deployment.engine_version)
        start = _header(text, deployment.name)
        key = "checkpoint" if deployment.checkpoint else "model"
        settings.put("model", deployment.weights, _line(text, start, key), key)
        for name, value in deployment.arguments.items():
            settings.put(settings.name_of(name), value, _line(text, start, name), name)
        for name, value in deployment.environment.items():
            settings.put_variable(name, value, _line(text, start, name))
    return RuleContext(settings, deployment.gpu, version, _config(path, deployment))


def _config(path: Path, deployment: Deployment) -> dict[str, object] | None:
    """The config.json of a checkpoint or model on this disk."""
    folder = (path.parent / deployment.weights).expanduser()
    file = folder if folder.suffix == ".json" else folder / "config.json"
    try:
        return read_json(file) if file.is_file() else None
    except SalientError:
        return None  # `salient doctor FOLDER` says what is wrong with it


def _header(text: str, name: str) -> int:
    match = re.search(rf"^\s*\[deployments\.[\"']?{re.escape(name)}[\"']?\]", text, re.MULTILINE)
    return match.start() if match else 0


def _line(text: str, start: int, key: str) -> int:
    """The line of a key after `start`, that of the entry itself if it is not there."""
    match = re.compile(rf"(?<![\w-])[\"']?{re.escape(key)}[\"']?\s*=").search(text, start)
    return text.count("\n", 0, match.start() if match else start) + 1
