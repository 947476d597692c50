"""Model folders gone wrong: one tensor or one key of config.json changed, and what became of it.

A change is either noticed before the run's first block, by --dry-run as by the run, or the
checkpoint computes what the source computes: both read by Transformers, the codes by a plain
dequantizer that shares nothing with Salient.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.families import FAMILIES
from helpers.toy_models import save, tiny_model
from salient import api
from salient.core.errors import SalientError

KINDS = (
    "llama", "qwen2", "qwen3", "gemma3_text", "gpt2", "gpt_neox", "phi3", "olmo2", "mixtral",
    "qwen3_moe", "deepseek_v3", "granite",
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 8, 64, 10**9, 0.5, 1e-6, "x", "", "64", "silu", [], [1],
    ["full_attention"], {}, {"rope_type": "linear", "factor": 2.0}, {"quant_method": "fp8"},
)  # fmt: skip
SCALES = ("weight_scale", "weight_scale_inv", "scale", "input_scale", "weight.absmax", "scales")
ADDED = (
    "score.weight", "lm_head.bias", "extra", "model.layers.0.self_attn.q_proj.bias",
    "model.layers.9.mlp.up_proj.weight", "model.norm.bias", "v_head.summary.weight",
    "model.layers.0.self_attn.k_scale", "transformer.h.0.attn.masked_bias",
    "model.rotary_emb.inv_freq", "norm.weight", "mtp.fc.weight",
)  # fmt: skip
TYPES = ("float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2", "int8", "uint8", "int32",
         "int64", "bool")  # fmt: skip
OPTIONS = {
    "scheme": "w4-g32",
    "samples": 2,
    "sequence_length": 64,
    "device": "cpu",
    "effort": "fast",
    "calibration_mix": 1.0,
}
IDS = torch.randint(3, 250, (4, 48), generator=torch.Generator().manual_seed(7))


@dataclass(frozen=True)
class Outcome:
    """What became of a changed folder.

    refusal: the message, '' if there is a checkpoint   kl: to the source, by the independent path
    own: the run's own KL   fault: what is wrong, '' if nothing
    """

    change: str
    refusal: str = ""
    kl: float = 0.0
    own: float = 0.0
    fault: str = ""


def base_folder(kind: str, home: Path) -> Path:
    """A tiny model of a family, of float32 tensors so that casts of them matter."""
    changes = {**FAMILIES[kind].changes}
    if kind == "llama":
        changes |= {"tie_word_embeddings": True}
    return save(tiny_model(kind, **changes), home / kind, torch.bfloat16)


def mutate(folder: Path, chance: random.Random) -> str:
    """Change one thing in `folder`; returns what."""
    changes: list[Callable[[Path, random.Random], str]] = [_tensor, _tensor, _config]
    return chance.choice(changes)(folder, chance)


def _tensor(folder: Path, chance: random.Random) -> str:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = chance.choice(sorted(tensors))
    what, old = chance.choice(list(TENSOR_CHANGES)), tensors[name]
    reported = TENSOR_CHANGES[what](tensors, name, old, chance)
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata={"format": "pt"})
    return f"{what} {name} {reported}"


def _rename(tensors: dict[str, Tensor], name: str, old: Tensor, chance: random.Random) -> str:
    parts = name.split(".")
    new = chance.choice(
        [
            f"module.{name}", f"_orig_mod.{name}", f"base_model.model.{name}", ".".join(parts[1:]),
            f"model.{name}", f"{name}_2", name.replace("weight", "qweight"),
            name.replace("layers.0", "layers.7"), name.replace(parts[-2], "extra"),
        ]
    )  # fmt: skip
    tensors[new or "x"] = tensors.pop(name)
    return new


def _remove(tensors: dict[str, Tensor], name: str, old: Tensor, chance: random.Random) -> str:
    del tensors[name]
    return ""


def _add(tensors: dict[str, Tensor], name: str, old: Tensor, chance: random.Random) -> str:
    new = chance.choice([*ADDED, f"{name}_scale", f"{name}.lora_A.weight", f"copy.{name}"])
    tensors[new] = torch.randn(old.shape)
    return new


def _cast(tensors: dict[str, Tensor], name: str, old: Tensor, chance: random.Random) -> str:
    kind = chance.choice(TYPES)
    tensors[name] = old.to(getattr(torch, kind))
    return kind


def _reshape(tensors: dict[str, Tensor], name: str, old: Tensor, chance: random.Random) -> str:
    forms = [old.flatten(), old[None], old[..., None], old[: len(old) // 2], old[:1],
             torch.cat([old, old]), old.reshape(-1, 2)]  # fmt: skip
    forms += [old.t(), old.reshape(old.shape[1], -1)] if old.ndim == 2 else []
    tensors[name] = chance.choice([form for form in forms if form.shape != old.shape])
    return str(list(tensors[name].shape))


def _eight_bits(tensors: dict[str, Tensor], name: str, old: Tensor, chance: random.Random) -> str:
    kind = chance.choice([torch.float8_e4m3fn, torch.int8, torch.uint8])
    scale = old.float().abs().max() / 100
    suffix = chance.choice(SCALES)
    tensors[name] = (old.float() / scale).to(kind)
    tensors[f"{name.removesuffix('.weight')}.{suffix}"] = scale.reshape(1)
    return f"{kind} with {suffix}"


def _no_number(tensors: dict[str, Tensor], name: str, old: Tensor, chance: random.Random) -> str:
    old.view(-1)[chance.randrange(old.numel())] = chance.choice([float("nan"), float("inf")])
    return ""


TENSOR_CHANGES: dict[str, Callable[..., str]] = {
    "rename": _rename,
    "remove": _remove,
    "add": _add,
    "cast": _cast,
    "reshape": _reshape,
    "eight bits": _eight_bits,
    "no number": _no_number,
}


def _config(folder: Path, chance: random.Random) -> str:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    key = chance.choice(sorted(config))
    if chance.random() < 0.4:
        del config[key]
        reported = "removed"
    else:
        config[key] = chance.choice([v for v in ODD if v != config[key]])
        reported = f"is {config[key]!r}"
    path.write_text(json.dumps(config))
    return f"config {key} {reported}"


def outcome(folder: Path, change: str, out: Path, text: Path, *, full: bool = True) -> Outcome:
    """What --dry-run says of `folder`, and a run; if not `full`, no run of what is accepted."""
    options = {**OPTIONS, "calibration": str(text)}
    dry, fault = _refusal(lambda: api.quantize(folder, out, dry_run=True, **options))
    if fault or not (full or dry):
        return Outcome(change, dry, fault=fault)
    results: list[Any] = []
    refusal, fault = _refusal(lambda: results.append(api.quantize(folder, out, **options)))
    if fault:
        return Outcome(change, refusal, fault=fault)
    if dry != refusal:
        return Outcome(change, refusal, fault=f"dry run: {dry or 'accepted'}; run: {refusal}")
    if refusal:
        left = out.with_name(out.name + ".partial").exists()
        return Outcome(change, refusal, fault="a partial folder is left" if left else "")
    own = results[0].report.data["heldout"]["awq"]["kl"]
    try:
        expected = transformers_logits(folder)
        result = transformers_logits(dequantized(out))
    except Exception as error:  # noqa: BLE001  whatever Transformers cannot load or run
        return Outcome(change, own=own, fault=f"Transformers: {type(error).__name__}: {error}")
    kl = divergence(expected, result)
    fault = "" if kl < 4 * own + 0.02 else f"KL {kl:.4f}, the run's own {own:.4f}"
    return Outcome(change, "", kl, own, fault)


def _refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """The message of a refusal, and a fault: any other exception."""
    try:
        call()
    except SalientError as error:
        return str(error), ""
    except Exception as error:  # noqa: BLE001  a traceback for the user
        return "", f"{type(error).__name__}: {error}"
    return "", ""


def transformers_logits(folder: Path) -> Tensor:
    """Logits by Transformers in float32, of the class that the config names."""
    names = json.loads((folder / "config.json").read_text()).get("architectures") or [""]
    auto = transformers.AutoModelForCausalLM
    named = getattr(transformers, str(names[0]), None) if isinstance(names, list) else None
    loader = named if named is not None and str(names[0]).endswith("ForCausalLM") else auto
    model = loader.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def divergence(expected: Tensor, result: Tensor) -> float:
    """Mean KL(expected || written) over tokens, in nats."""
    p, q = expected.double().log_softmax(-1), result.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def dequantized(out: Path) -> Path:
    """A 16-bit folder of an AutoAWQ checkpoint, by the format's own description."""
    folder = out.with_name(out.name + "-16")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = json.loads((out / "config.json").read_text())
    size = config.pop("quantization_config")["group_size"]
    tensors = load_file(out / "model.safetensors")
    for name in [n for n in tensors if n.endswith(".qweight")]:
        module = name.removesuffix(".qweight")
        codes, zeros = (unpacked(tensors.pop(f"{module}.{s}")) for s in ("qweight", "qzeros"))
        scales = tensors.pop(f"{module}.scales").float()
        steps = codes - zeros.repeat_interleave(size, 0)
        weight = steps * scales.repeat_interleave(size, 0)  # [in, out]
        conv = config.get("model_type") == "gpt2"  # whose Conv1D is [in, out], too
        tensors[f"{module}.weight"] = weight if conv else weight.t().contiguous()
    for key in ("dtype", "torch_dtype"):
        config[key] = "float32"
    (folder / "config.json").write_text(json.dumps(config))
    save_file({n: t.float() if t.is_floating_point() else t for n, t in tensors.items()},
              folder / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    return folder


def unpacked(packed: Tensor) -> Tensor:
    """int32 [rows, n] -> float [rows, 8 n]; the order of a word's nibbles is AutoAWQ's."""
    columns = torch.empty(len(packed), packed.shape[1], 8)
    for nibble, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        columns[:, :, column] = (packed >> (4 * nibble)) & 15
    return columns.flatten(1)
