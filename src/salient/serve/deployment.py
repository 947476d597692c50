"""`salient serve NAME`: a deployment of a salient.toml as the options of serve."""

import os
import shlex
from dataclasses import replace
from pathlib import Path

from salient.core.errors import RequestError
from salient.plan.deployments import FILE_NAME, Deployment, find_deployment, read_deployments

from .options import ServeOptions


def with_deployment(options: ServeOptions) -> ServeOptions:
    """The options of the deployment that `checkpoint` names; the same ones if it names none.

    Without `--config` the salient.toml of the working folder is read, and a folder comes before a
    deployment of its name. Sets the deployment's environment variables where they are not set.
    Raises RequestError for an invalid file, a name that is not in it, and an engine that is not
    started here.
    """
    name = str(options.checkpoint)
    path = Path(options.config or FILE_NAME).expanduser()
    absent = not path.is_file() or Path(name).exists()
    if not options.config and (absent or name not in read_deployments(path)):
        return options
    deployment = find_deployment(path, name)
    folder = (path.parent / deployment.weights).expanduser()
    weights = str(folder) if folder.exists() else deployment.weights
    if deployment.engine not in ("vllm", "embedded"):
        raise RequestError(_other_engine(path, deployment, weights))
    for variable, value in deployment.environment.items():
        os.environ.setdefault(variable, value)
    tp, context = (deployment.argument(key) for key in ("tensor_parallel_size", "max_model_len"))
    changed = replace(
        options,
        checkpoint=weights,
        engine=deployment.engine,
        served_model_name=options.served_model_name or name,
        tensor_parallel_size=tp if type(tp) is int else options.tensor_parallel_size,
    )
    if deployment.engine == "vllm":
        return replace(changed, vllm_args=(*deployment.argv(), *options.vllm_args))
    context = context if type(context) is int else options.context_length
    return replace(changed, context_length=context)


def _other_engine(path: Path, deployment: Deployment, weights: str) -> str:
    lines = {
        "sglang": ["python", "-m", "sglang.launch_server", "--model-path"],
        "llama.cpp": ["llama-server", "-m"],
    }
    start = lines.get(deployment.engine)
    argv = [*start, weights, *deployment.argv()] if start else []
    do = f"Start it with: {shlex.join(argv)}" if argv else "Set engine to one of them."
    return (
        f"{path}: deployments.{deployment.name}.engine is {deployment.engine!r}; salient serve "
        f"starts vllm and embedded. {do}"
    )
