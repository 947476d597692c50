"""A team's registry of models in Python: each entry as serving settings of its own.

An entry is a dict, or a call of a record, that names a model and how it is served:

    MODELS = {"chat": {"model_id": "org/Model-AWQ", "quantization": "awq", "tp": 2}}
    CHAT = ModelConfig(model_id="org/Model-AWQ", quantization=Quantization.AWQ)

Teams' own names of arguments are known by SPELLINGS; their other fields are left alone.
"""

import ast
from collections.abc import Iterator
from dataclasses import replace

from .python_reader import Names, call_name, pairs_of, value_of_node
from .server_arguments import CHOICES, KINDS, METHODS
from .settings import UNKNOWN, ServingSettings

SPELLINGS = {
    **dict.fromkeys(
        (
            "model_id", "model_name", "model_path", "hf_model", "hf_model_id", "hf_id", "repo",
            "repo_id", "hf_repo", "checkpoint", "path", "pretrained", "model_tag", "name_or_path",
        ),
        "model",
    ),
    **dict.fromkeys(
        (
            "quant", "quant_method", "quantization_method", "quant_type", "quantize",
            "quantization_type", "quant_format",
        ),
        "quantization",
    ),
    **dict.fromkeys(
        ("tp", "tp_size", "tensor_parallel", "num_gpus", "gpus", "gpu_count", "n_gpus"),
        "tensor_parallel_size",
    ),
    **dict.fromkeys(
        (
            "max_length", "max_context", "max_context_length", "context_length", "context",
            "max_seq_len", "max_tokens_context", "context_window",
        ),
        "max_model_len",
    ),
    **dict.fromkeys(
        ("gpu_memory", "gpu_mem", "memory_utilization", "gpu_mem_util", "gpu_utilization"),
        "gpu_memory_utilization",
    ),
    "torch_dtype": "dtype",
    "precision": "dtype",
    "kv_cache": "kv_cache_dtype",
    "max_batch_size": "max_num_seqs",
    "eager": "enforce_eager",
}  # fmt: skip
# Fields whose dict holds the engine's arguments.
_NESTED = ("args", "kwargs", "config", "options", "params", "settings")
# An entry has at least one of these: other calls have a model and a seed, too.
_ABOUT_SERVING = {
    "quantization", "dtype", "tensor_parallel_size", "max_model_len", "gpu_memory_utilization",
    "kv_cache_dtype", "max_num_seqs", "enforce_eager", "load_format", "max_num_batched_tokens",
}  # fmt: skip
_ENGINES = {"vllm": "vllm", "sglang": "sglang"}
MAX_ENTRIES = 500
_METHODS = {*CHOICES["quantization"], *METHODS["elsewhere"]}


def read_registry(
    settings: ServingSettings, tree: ast.Module, names: Names
) -> list[ServingSettings]:
    """The entries of the source in its order, [] if it holds none."""
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    entries: list[ServingSettings] = []
    for title, node in _candidates(tree):
        fields = dict(_fields(node, names, classes))
        entry = replace(settings, values={}, lines={}, names={}, sources={}, notes=[])
        entry.kind = "json" if isinstance(node, ast.Dict) else "python"
        entry.entry = title or _own_name(fields, names) or f"line {node.lineno}"
        _put_fields(entry, fields, names)
        if _is_entry(entry):
            entries.append(entry)
    return entries[:MAX_ENTRIES]


def _candidates(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Dicts and calls, each with the key of the dict around it or its variable, "" without."""
    titles: dict[int, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name), *_], value=value):
                titles.setdefault(id(value), name)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                titles.setdefault(id(value), name)
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(key.value, str):
                        titles[id(value)] = key.value
                    elif isinstance(key, ast.Attribute):
                        titles[id(value)] = key.attr
            case _:
                pass
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Dict | ast.Call)]
    for node in sorted(nodes, key=lambda one: (one.lineno, one.col_offset)):
        yield titles.get(id(node), ""), node


def _own_name(fields: dict[str, ast.expr], names: Names) -> str:
    for key in ("name", "alias", "key", "id", "served_model_name"):
        value = value_of_node(fields[key], names) if key in fields else None
        if isinstance(value, str) and value != UNKNOWN:
            return value
    return ""


def _fields(
    node: ast.expr, names: Names, classes: dict[str, ast.ClassDef]
) -> Iterator[tuple[str, ast.expr]]:
    """The fields of a dict or call by name: defaults of its class, what it unpacks, its own.

    Those of the dicts with engine arguments in it, too.
    """
    if isinstance(node, ast.Call):
        record = classes.get(call_name(node))
        declared = (
            [item for item in record.body if isinstance(item, ast.AnnAssign)] if record else []
        )
        targets = [(item.target, item.value) for item in declared]
        fields = [(target.id, value) for target, value in targets if isinstance(target, ast.Name)]
        yield from ((name, value) for name, value in fields if value)
        yield from zip((name for name, _ in fields), node.args, strict=False)
        own = [(one.arg, one.value) for one in node.keywords]
    elif isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else key and "" for key in node.keys]
        own = list(zip(keys, node.values, strict=True))
    else:
        return
    for name, value in own:
        if name is None:  # **name
            base = names.get(value.id, value) if isinstance(value, ast.Name) else value
            yield from pairs_of(base)
        elif isinstance(name, str):
            yield name, value
            if name.endswith(_NESTED):
                yield from pairs_of(value)


def _put_fields(entry: ServingSettings, fields: dict[str, ast.expr], names: Names) -> None:
    """Add the fields that are arguments, with the text that they have in the source."""
    for name, node in fields.items():
        key = SPELLINGS.get(name, name)
        if key == "engine" or name in ("backend", "framework", "runtime"):
            engine = value_of_node(node, names)
            if isinstance(engine, str) and engine.lower() in _ENGINES:
                entry.engine = "sglang" if engine.lower() == "sglang" else "vllm"
            continue
        if key not in KINDS or (key in entry.values and key != name):
            continue
        value = value_of_node(node, names)
        if value == UNKNOWN and isinstance(node, ast.Attribute):
            method = node.attr.lower()  # Quantization.AWQ
            value = method if key == "quantization" and method in _METHODS else value
        if value is not None and not isinstance(value, dict):
            entry.put(key, value, node.lineno, name)
            entry.sources[key] = ast.unparse(node)


def _is_entry(entry: ServingSettings) -> bool:
    """Whether it names a model and at least one thing about how it is served."""
    model = entry.values.get("model")
    named = isinstance(model, str) and bool(model.strip())
    return named and bool(entry.values.keys() & _ABOUT_SERVING)
