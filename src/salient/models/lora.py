"""LoRA adapters as peft saves them (extra `lora`), merged tensor by tensor as a model is read.

Fine-tune first, then quantize: the merged model never exists in whole. peft does the arithmetic, so
that its variants (rsLoRA, DoRA, rank patterns) are its own.
"""

import copy
import hashlib
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from salient.core.errors import MissingExtra, ModelError
from salient.core.input_files import check_folder
from salient.core.model_files import ADAPTER_CONFIG, read_json
from salient.core.options import StrPath
from salient.core.quant import check_finite
from salient.formats.checkpoint import open_piece

PREFIX = "base_model.model."
WEIGHTS, CONFIG = "adapter_model.safetensors", ADAPTER_CONFIG
PICKLES = ("adapter_model.bin", "adapter_model.pt")
LISTED = 3  # of many adapters in subfolders, how many a message names
# Field of the config -> (its untrained values, what it does)
UNMERGED = {
    "bias": (("none",), "trained biases"),
    "lora_bias": ((False, None), "trained biases"),
    "alora_invocation_tokens": ((None,), "is active only after its invocation tokens"),
    "layer_replication": ((None,), "repeats layers of the model"),
    "arrow_config": ((None,), "selects among several adapters for each token"),
    "use_qalora": ((False, None), "pools the inputs of its layers"),
}
# Names of an adapter's tensors -> where `Adapter` has them; the first that matches counts.
KINDS = (
    (re.compile(r"(?P<home>.+?)\.(?P<leaf>lora_[^.]+(\..+)?)"), "layers"),
    (re.compile(r"(?P<home>.+)\.token_adapter\.trainable_tokens_delta"), "tokens"),
    (re.compile(r".+\.token_adapter\.(token_indices|trainable_tokens_original)"), ""),
    (re.compile(r"(?P<home>.+)\.modules_to_save(\.default)?\.(?P<leaf>.+)"), "replaced"),
    (
        re.compile(r"(?P<home>.+?)(\.token_adapter|\.base_layer|\.original_module)+\.(?P<leaf>.+)"),
        "bases",
    ),
    (re.compile(r"(?P<home>.+)\.(?P<leaf>[^.]+)"), "replaced"),
)


@dataclass(frozen=True)
class Adapter:
    """An adapter folder that has been read. Modules and parameters have peft's names.

    config: peft's LoraConfig   base: the name of the model that it was trained on
    layers: module -> its LoRA tensors by their name in it
    tokens: module -> its rows for `trainable_token_indices`
    replaced: parameter -> its fine-tuned value
    bases: parameter -> the value under its LoRA, where the adapter stores that, too
    """

    folder: Path
    config: Any
    base: str
    digest: str
    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict[str, dict[str, Tensor]])
    tokens: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    replaced: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    bases: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def name(self) -> str:
        """The name of the folder; of a training's step, with that of the training."""
        folder = self.folder.absolute()
        step = folder.name.startswith("checkpoint-")
        return f"{folder.parent.name}/{folder.name}" if step else folder.name

    def settings(self, **changes: Any) -> Any:
        """A copy of the config, for one layer: peft changes what it gets."""
        config = copy.deepcopy(self.config)
        changes = {"modules_to_save": None, "trainable_token_indices": None, **changes}
        for key, value in changes.items():
            setattr(config, key, value)
        return config

    def token_rows(self, module: str) -> list[int]:
        """The rows of `module` that its token adapter replaces."""
        indices: Any = self.config.trainable_token_indices or []
        if isinstance(indices, dict):
            named = [rows for key, rows in indices.items() if f".{module}".endswith(f".{key}")]
            indices = named[0] if named else next(iter(indices.values()), [])
        return list(indices)

    def merged(self, module: str, weight: Tensor) -> Tensor:
        """`weight` [out, in] of `module` with its LoRA merged in, in float32.

        On the meta device nothing is computed: the tensors are compared with the weight alone.
        Raises ModelError if they do not fit it.
        """
        from peft import inject_adapter_in_model, set_peft_model_state_dict

        tensors = self.layers[module]
        trial = weight.is_meta
        root = _alone(module, weight.float(), embedding="lora_embedding_A" in tensors)
        changes = {"target_modules": [module], "target_parameters": None, "exclude_modules": None}
        changes |= {"layers_to_transform": None, "layers_pattern": None}
        if trial:
            changes |= {"init_lora_weights": False}
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # that patterns for other modules match none here
                inject_adapter_in_model(self.settings(**changes), root, low_cpu_mem_usage=trial)
                outcome = set_peft_model_state_dict(
                    root,
                    {f"{module}.{name}": tensor for name, tensor in tensors.items()},
                    low_cpu_mem_usage=trial,
                )
                missing = [n for n in outcome.missing_keys if ".lora_" in n]
                reason = ", ".join(missing + outcome.unexpected_keys)
                if not reason:
                    layer: Any = root.get_submodule(module)
                    if not trial:
                        layer.merge(safe_merge=True)
                    return layer.get_base_layer().weight.detach()
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
        raise ModelError(
            f"The adapter {self.folder} does not fit {module!r} ({reason}). Check that its files "
            "are whole and that it belongs to this model."
        )


def _alone(module: str, weight: Tensor, *, embedding: bool) -> nn.Module:
    """A model with only the linear, or embedding, called `module`."""
    rows, width = weight.shape
    layer = (
        nn.Embedding(rows, width, device="meta")
        if embedding
        else nn.Linear(width, rows, bias=False, device="meta")
    )
    layer.weight = nn.Parameter(weight, requires_grad=False)
    root = owner = nn.Module()
    *path, name = module.split(".")
    for part in path:
        child = nn.Module()
        owner.add_module(part, child)
        owner = child
    owner.add_module(name, layer)
    return root


def open_adapter(name: StrPath) -> Adapter:
    """Read the LoRA adapter in the folder `name`.

    Raises ModelError if it cannot be merged, MissingExtra without peft.
    """
    folder = Path(name).expanduser()
    weights, settings = folder / WEIGHTS, folder / CONFIG
    if not weights.is_file() or not settings.is_file():
        raise ModelError(_no_adapter(str(name), folder))
    check_folder(folder)
    saved = read_json(settings)
    _check_mergeable(folder, saved)
    config = _read_config(folder)
    digest = hashlib.sha256(weights.read_bytes() + settings.read_bytes()).hexdigest()
    adapter = Adapter(folder, config, str(saved.get("base_model_name_or_path") or ""), digest)
    piece = open_piece(weights, {})
    with piece.reading():
        for key in sorted(piece.files):
            if not key.startswith(PREFIX):
                raise ModelError(
                    f"{WEIGHTS} in {folder} has {key!r}; peft's names start with {PREFIX!r}. "
                    "Convert the adapter to peft's format, or merge it with the tool that made it."
                )
            tensor = piece.tensor(key)
            check_finite(f"{key} of the adapter", tensor)
            _add(adapter, key.removeprefix(PREFIX).replace("_orig_mod.", ""), tensor)
    return adapter


def _add(adapter: Adapter, name: str, tensor: Tensor) -> None:
    """Sort the tensor called `name` into `adapter`."""
    for form, place in KINDS:
        match = form.fullmatch(name)
        if match is None:
            continue
        parts = match.groupdict()
        home, leaf = parts.get("home", ""), parts.get("leaf")
        if place == "layers":
            adapter.layers.setdefault(home, {})[str(leaf)] = tensor
        elif place:
            getattr(adapter, place)[f"{home}.{leaf}" if leaf else home] = tensor
        return


def _no_adapter(name: str, folder: Path) -> str:
    """What `folder` is instead of an adapter, and what to give."""
    needs = f"it needs {CONFIG} and {WEIGHTS}, as peft saves them"
    if not folder.exists():
        if name.count("/") == 1 and not name.startswith((".", "/", "~")):
            return (
                f"--adapter {name!r} is no folder here. If it is an adapter on the Hub, fetch it: "
                f"hf download {name} --local-dir {folder.name}, then --adapter {folder.name}."
            )
        return f"--adapter {name!r} does not exist. Give the folder of a LoRA adapter: {needs}."
    if folder.is_file():
        return f"--adapter {name!r} is a file. Give its folder: {needs}."
    pickle = next((p for p in PICKLES if (folder / p).is_file()), None)
    if pickle and not (folder / WEIGHTS).is_file():
        return (
            f"{folder} has its adapter in {pickle}, a pickle, which Salient does not open. Load it "
            "with peft and write it again: PeftModel.from_pretrained(base, folder)."
            f"save_pretrained(folder) writes {WEIGHTS}."
        )
    inner = sorted(p.parent for depth in ("*", "*/*") for p in folder.glob(f"{depth}/{CONFIG}"))
    if inner:
        listed = ", ".join(str(path) for path in inner[:LISTED])
        more = f" and {len(inner) - LISTED} more" if len(inner) > LISTED else ""
        return f"{folder} is no LoRA adapter, but has some: {listed}{more}. Give one as --adapter."
    if (folder / "config.json").is_file() and not (folder / CONFIG).is_file():
        return (
            f"{folder} is no LoRA adapter but a model (config.json). If the adapter is merged in "
            "it, give it as MODEL, without --adapter."
        )
    missing = " and ".join(n for n in (CONFIG, WEIGHTS) if not (folder / n).is_file())
    return f"{folder} is no LoRA adapter: {needs}; {missing} is missing."


def _check_mergeable(folder: Path, settings: dict[str, Any]) -> None:
    kind = settings.get("peft_type")
    if kind is None:
        raise ModelError(
            f"{CONFIG} in {folder} has no peft_type, so that peft did not write it. Merge the "
            "adapter with the tool that made it, and give the merged model without --adapter."
        )
    if kind != "LORA":
        raise ModelError(
            f"{folder} is an adapter of type {kind}. Salient merges LoRA adapters; merge this one "
            "with peft first."
        )
    for key, (untrained, effect) in UNMERGED.items():
        if settings.get(key, untrained[0]) not in untrained:
            raise ModelError(
                f"{folder} {effect} ({key}={settings[key]!r}). Salient does not merge that: merge "
                "it with peft first."
            )


def _read_config(folder: Path) -> Any:
    try:
        from peft import PeftConfig
    except ImportError:
        raise MissingExtra(
            "--adapter needs the extra 'lora': pip install 'salient-awq[lora]'"
        ) from None
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"The installed peft cannot read {CONFIG} in {folder} ({error}). Update peft."
        ) from error
    config.inference_mode = True
    return config
