"""A team's deployments: salient.toml, which doctor checks, plan plans, and serve starts.

[defaults]                       # of every deployment
device = "A100 SXM 80GB"

[deployments.chat]
model = "org/Model-AWQ"          # or: checkpoint = "folder"
engine = "vllm"                  # vllm, sglang, llama.cpp, transformers or embedded
engine_version = "0.24"
arguments = { tensor_parallel_size = 2, max_model_len = 16384 }    # the engine's own
environment = { VLLM_LOGGING_LEVEL = "INFO" }
concurrency = 8                  # sequences at once, of the targets
targets = { ttft = "1s", decode = 30, memory = "70GB" }
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal, cast

from salient.core.errors import RequestError, SalientError
from salient.core.input_files import UnfitFile, read_input
from salient.core.records import Bounds, FormatFault, from_json

from .device_names import find_gpu
from .gpus import Gpu
from .requirements import parse_requirements
from .vllm.versions import parse_version

FILE_NAME = "salient.toml"
FILE_LIMIT = 2**20  # bytes
MAX_DEPLOYMENTS = 1000
Engine = Literal["vllm", "sglang", "llama.cpp", "transformers", "embedded"]
Argument = str | bool | int | float | list[object] | dict[str, object]


@dataclass(frozen=True)
class Deployment:
    """A model as it is served. Either model or checkpoint is set.

    model: a Hub id or config.json   checkpoint: a folder
    engine_version, device: "" where unknown
    arguments: of the engine, by its names with dashes or underscores
    concurrency: sequences at once   targets: as `--require` of plan has them
    """

    name: str
    model: str = ""
    checkpoint: str = ""
    engine: Engine = "vllm"
    engine_version: str = ""
    device: str = ""
    arguments: dict[str, Argument] = field(default_factory=dict[str, Argument])
    environment: dict[str, str] = field(default_factory=dict[str, str])
    concurrency: Annotated[int, Bounds(1, 100_000)] = 1
    targets: dict[str, str | bool | int | float] = field(
        default_factory=dict[str, str | bool | int | float]
    )

    @property
    def weights(self) -> str:
        """The checkpoint, else the model."""
        return self.checkpoint or self.model

    @property
    def gpu(self) -> Gpu | None:
        return find_gpu(self.device) if self.device else None

    @property
    def required(self) -> str:
        """The targets as `--require`."""
        items = self.targets.items()
        return ",".join(key if value is True else f"{key}={value}" for key, value in items)

    def argument(self, name: str) -> Argument | None:
        """The value of an argument, by its name with underscores."""
        values = {key.replace("-", "_"): value for key, value in self.arguments.items()}
        return values.get(name)

    def argv(self) -> list[str]:
        """The arguments as the words of a command."""
        return [word for key, value in self.arguments.items() for word in _argv_of(key, value)]


def _argv_of(key: str, value: Argument) -> list[str]:
    dashed = key.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{dashed}" if value else f"--no-{dashed}"]
    if isinstance(value, list):
        return [f"--{dashed}", *map(str, value)]
    return [f"--{dashed}", json.dumps(value) if isinstance(value, dict) else str(value)]


_KEYS = [one.name for one in fields(Deployment) if one.name != "name"]


def read_deployments(path: Path) -> dict[str, Deployment]:
    """The deployments of a file by name.

    Raises RequestError naming the entry and field that are wrong.
    """
    data = _read_file(path)
    _check_keys(path, "", data, ["defaults", "deployments"])
    defaults, entries = (
        _table(path, key, data.get(key, {})) for key in ("defaults", "deployments")
    )
    _check_keys(path, "defaults", defaults, _KEYS)
    if not entries:
        raise RequestError(
            f"{path}: there is no deployment. Add one: [deployments.NAME] with model = 'org/Model'."
        )
    if len(entries) > MAX_DEPLOYMENTS:
        raise RequestError(f"{path}: {len(entries):,} deployments; {MAX_DEPLOYMENTS:,} fit.")
    return {name: _deployment(path, name, entry, defaults) for name, entry in entries.items()}


def find_deployment(path: Path, name: str) -> Deployment:
    """One deployment of a file. Raises RequestError with the names that there are."""
    deployments = read_deployments(path)
    if name not in deployments:
        raise RequestError(f"{path} has no deployment {name!r}. It has: {', '.join(deployments)}.")
    return deployments[name]


def _read_file(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(read_input(path, FILE_LIMIT).decode("utf-8-sig"))
    except FileNotFoundError:
        raise RequestError(f"There is no file {path}. Give the path of a {FILE_NAME}.") from None
    except UnfitFile as unfit:
        raise RequestError(f"{path} {unfit.reason}. Give a {FILE_NAME}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} is no TOML: {error}. Correct it.") from error


def _table(path: Path, where: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise RequestError(f"{path}: {where} is {value!r:.80}. Write it as a table: [{where}].")
    return cast("dict[str, object]", value)


def _check_keys(path: Path, where: str, table: Mapping[str, object], known: list[str]) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {near[0]}?" if near else f" It takes: {', '.join(known)}."
            raise RequestError(f"{path}: {where}{'.' * bool(where)}{key} is unknown.{hint}")


def _deployment(path: Path, name: str, entry: object, defaults: dict[str, object]) -> Deployment:
    where = f"deployments.{name}"
    own = _table(path, where, entry)
    _check_keys(path, where, own, _KEYS)
    merged: dict[str, object] = {**defaults, **own, "name": name}
    for key in ("arguments", "environment", "targets"):
        parts = [table for table in (defaults.get(key), own.get(key)) if table is not None]
        if len(parts) == 2 and all(isinstance(part, dict) for part in parts):
            merged[key] = {**_table(path, key, parts[0]), **_table(path, key, parts[1])}
    if own.keys() & {"model", "checkpoint"}:
        merged |= {key: own.get(key, "") for key in ("model", "checkpoint")}
    try:
        deployment = from_json(Deployment, merged, where)
    except FormatFault as error:
        raise RequestError(f"{path}: {error}") from None
    _check(path, where, deployment)
    return deployment


def _check(path: Path, where: str, deployment: Deployment) -> None:
    """Raises RequestError for values that no deployment has."""
    if bool(deployment.model) == bool(deployment.checkpoint):
        both = "sets model and checkpoint" if deployment.model else "names no model"
        raise RequestError(
            f"{path}: {where} {both}. Set one: model = 'org/Model', or checkpoint = 'folder'."
        )
    if deployment.checkpoint and not (path.parent / deployment.checkpoint).expanduser().exists():
        raise RequestError(
            f"{path}: {where}.checkpoint: there is no folder {deployment.checkpoint!r}, from the "
            "file's own folder. Give its path, or name a Hub id as model."
        )
    checks = (
        ("device", find_gpu, deployment.device),
        ("engine_version", parse_version, deployment.engine_version),
        ("targets", parse_requirements, deployment.required),
    )
    for key, check, text in checks:
        if key == "engine_version" and deployment.engine != "vllm":
            continue
        try:
            if text:
                check(text)
        except SalientError as error:
            raise RequestError(f"{path}: {where}.{key}: {error}") from None
