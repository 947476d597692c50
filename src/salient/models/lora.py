"""LoRA adapters, merged tensor by tensor as a model is read (extra `lora`, library peft).

Fine-tune first, then quantize: the merged model never exists in whole. peft does the arithmetic, so
that its variants (rsLoRA, DoRA, rank patterns) are its own.
"""

import hashlib
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from salient.core.errors import MissingExtra, ModelError
from salient.core.model_files import read_json
from salient.formats.checkpoint import Checkpoint, open_piece

PREFIX = "base_model.model."
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """An adapter folder that has been read.

    config: peft's LoraConfig
    parts: module name -> its adapter tensors by peft's key
    replaced: parameter name -> its fine-tuned value (`modules_to_save`)
    """

    folder: Path
    config: Any
    parts: dict[str, dict[str, Tensor]]
    replaced: dict[str, Tensor]
    digest: str

    def merged(self, module: str, weight: Tensor) -> Tensor:
        """`weight` [out, in] of `module` with the adapter merged in, in float32.

        Raises ModelError if the adapter's tensors do not fit it.
        """
        from peft import inject_adapter_in_model, set_peft_model_state_dict

        root = _alone(module, weight.float(), embedding=self._embeds(module))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that patterns for other modules match none here
                inject_adapter_in_model(self.config, root)
                outcome = set_peft_model_state_dict(root, self.parts[module])
            missing = [n for n in outcome.missing_keys if ".lora_" in n]
            reason = ", ".join(missing + outcome.unexpected_keys)
            if not reason:
                layer: Any = root.get_submodule(module)
                layer.merge(safe_merge=True)
                return layer.get_base_layer().weight.detach()
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
        raise ModelError(
            f"The adapter {self.folder} does not fit {module!r} ({reason}). Check that its files "
            "are whole and that it belongs to this model."
        )

    def _embeds(self, module: str) -> bool:
        return any(".lora_embedding_" in name for name in self.parts[module])


def _alone(module: str, weight: Tensor, *, embedding: bool) -> nn.Module:
    """A model with only the linear, or embedding, called `module`."""
    rows, width = weight.shape
    layer = nn.Embedding(rows, width) if embedding else nn.Linear(width, rows, bias=False)
    layer.weight.data = weight
    root = owner = nn.Module()
    *path, name = module.split(".")
    for part in path:
        child = nn.Module()
        owner.add_module(part, child)
        owner = child
    owner.add_module(name, layer)
    return root


def open_adapter(folder: Path) -> Adapter:
    """Read the LoRA adapter in `folder`.

    Raises ModelError if it cannot be merged, MissingExtra without peft.
    """
    weights, settings = folder / WEIGHTS, folder / CONFIG
    if not weights.is_file() or not settings.is_file():
        raise ModelError(
            f"{folder} is no LoRA adapter: it needs {CONFIG} and {WEIGHTS}, as peft saves them."
        )
    _check_mergeable(folder, read_json(settings))
    config = _read_config(folder)
    piece = open_piece(weights, {})
    parts: dict[str, dict[str, Tensor]] = {}
    replaced = {}
    with piece.reading():
        for key in sorted(piece.files):
            name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
            module, separator, _ = name.partition(".lora_")
            home = parts.setdefault(module, {}) if separator else replaced
            home[name] = piece.tensor(key)
    digest = hashlib.sha256(weights.read_bytes() + settings.read_bytes()).hexdigest()
    return Adapter(folder, config, parts, replaced, digest)


def _check_mergeable(folder: Path, settings: dict[str, Any]) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{folder} is an adapter of type {kind}. Salient merges LoRA adapters; merge this one "
            "with peft first."
        )
    for field, untrained in (("bias", "none"), ("lora_bias", False)):
        if settings.get(field, untrained) != untrained:
            raise ModelError(
                f"{folder} trained biases ({field}={settings[field]!r}), which are not merged. "
                "Merge it with peft first."
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


@dataclass
class AdaptedCheckpoint(Checkpoint):
    """A 16-bit checkpoint whose tensors are read with an adapter merged in."""

    adapter: Adapter | None = None

    @staticmethod
    def over(source: Checkpoint, adapter: Adapter) -> "AdaptedCheckpoint":
        """`source` with `adapter` merged.

        Raises ModelError if the adapter names a module that the model lacks.
        """
        wanted = [f"{module}.weight" for module in adapter.parts] + list(adapter.replaced)
        unknown = [name for name in wanted if name not in source.files]
        if unknown:
            raise ModelError(
                f"The adapter {adapter.folder} changes {unknown[0]!r}, which {source.folder} does "
                f"not have ({len(unknown)} such). It was trained on another model."
            )
        return AdaptedCheckpoint(
            **{f.name: getattr(source, f.name) for f in fields(source) if f.init}, adapter=adapter
        )

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name` with the adapter merged in; float32 where it changed."""
        assert self.adapter is not None
        replaced = self.adapter.replaced.get(name)
        tensor = super().tensor(name) if replaced is None else replaced
        module, _, kind = name.rpartition(".")
        if kind == "weight" and module in self.adapter.parts:
            with torch.no_grad():
                return self.adapter.merged(module, tensor)
        return tensor

    def entry(self, name: str, index: int) -> Tensor:
        """Entry `index` along the first axis of `name`, with the adapter merged in."""
        assert self.adapter is not None
        changed = name in self.adapter.replaced or name.rpartition(".")[0] in self.adapter.parts
        return self.tensor(name)[index] if changed else super().entry(name, index)
