"""LoRA adapters, merged tensor by tensor as a model is read (extra `lora`, library peft).

Fine-tune first, then quantize: the merged model never exists in whole. peft does the arithmetic, so
that its variants (rsLoRA, DoRA, rank patterns) are its own.
"""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from salient.core.errors import MissingExtra, ModelError
from salient.formats.checkpoint import Checkpoint

PREFIX = "base_model.model."


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
        """`weight` [out, in] of the linear `module` with the adapter merged in, in float32."""
        from peft import inject_adapter_in_model, set_peft_model_state_dict

        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data = weight.float()
        root = nn.Module()
        owner, *path = root, *module.split(".")
        for part in path[:-1]:
            child = nn.Module()
            owner.add_module(part, child)
            owner = child
        owner.add_module(path[-1], linear)
        inject_adapter_in_model(self.config, root)
        outcome = set_peft_model_state_dict(root, self.parts[module])
        layer: Any = root.get_submodule(module)
        if getattr(outcome, "unexpected_keys", None) or not hasattr(layer, "merge"):
            raise ModelError(
                f"The adapter {self.folder} does not fit {module!r}: {outcome}. Check that it "
                "belongs to this model."
            )
        layer.merge(safe_merge=True)
        return layer.get_base_layer().weight.detach()


def open_adapter(folder: Path) -> Adapter:
    """Read the LoRA adapter in `folder`.

    Raises ModelError if it is none, MissingExtra without peft.
    """
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file() or not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} is no LoRA adapter: it needs adapter_config.json and "
            "adapter_model.safetensors, as peft saves them."
        )
    try:
        from peft import PeftConfig, PeftType
    except ImportError:
        raise MissingExtra(
            "--adapter needs the extra 'lora': pip install 'salient-awq[lora]'"
        ) from None
    config: Any = PeftConfig.from_pretrained(str(folder))
    if config.peft_type != PeftType.LORA:
        raise ModelError(
            f"{folder} is a {config.peft_type} adapter. Salient merges LoRA adapters; merge this "
            "one with peft first."
        )
    if config.bias != "none":
        raise ModelError(
            f"{folder} trained biases (bias={config.bias!r}), which are not merged. Merge it with "
            "peft first."
        )
    config.inference_mode = True
    parts: dict[str, dict[str, Tensor]] = {}
    replaced = {}
    for key, tensor in load_file(weights).items():
        name = key.removeprefix(PREFIX)
        module, found, _ = name.partition(".lora_")
        if found:
            parts.setdefault(module, {})[key.removeprefix(PREFIX)] = tensor
        else:
            replaced[name] = tensor
    digest = hashlib.sha256(
        weights.read_bytes() + (folder / "adapter_config.json").read_bytes()
    ).hexdigest()
    return Adapter(folder, config, parts, replaced, digest)


@dataclass
class Adapted(Checkpoint):
    """A 16-bit checkpoint whose tensors are read with an adapter merged in."""

    adapter: Adapter | None = None

    @staticmethod
    def over(source: Checkpoint, adapter: Adapter) -> "Adapted":
        """`source` seen through `adapter`.

        Raises ModelError if the adapter names a module that the model lacks.
        """
        wanted = [f"{module}.weight" for module in adapter.parts] + list(adapter.replaced)
        unknown = [name for name in wanted if name not in source.files]
        if unknown:
            raise ModelError(
                f"The adapter {adapter.folder} changes {unknown[0]!r}, which {source.folder} does "
                f"not have ({len(unknown)} such). It was trained on another model."
            )
        return Adapted(
            **{f.name: getattr(source, f.name) for f in fields(source) if f.init}, adapter=adapter
        )

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name` with the adapter merged in; float32 where it changed."""
        assert self.adapter is not None
        if name in self.adapter.replaced:
            return self.adapter.replaced[name]
        found = super().tensor(name)
        module, _, kind = name.rpartition(".")
        if kind == "weight" and module in self.adapter.parts:
            with torch.no_grad():
                return self.adapter.merged(module, found)
        return found
