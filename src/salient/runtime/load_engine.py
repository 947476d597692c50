"""Load a checkpoint into an engine: device, dtypes, kernels, fusion."""

from dataclasses import dataclass

import torch

from salient.core.devices import find_device
from salient.core.dtypes import dtype_of
from salient.core.errors import RequestError
from salient.core.system import release_memory
from salient.kernels.cpu_library import Library, load_library
from salient.models.lora import Adapter
from salient.runtime.fusion.verify import FusionAudit, fuse

from .engine import Engine
from .model_loader import LoadedModel, load_model
from .options import EngineOptions
from .runner import FusedRunner, ModelRunner, Runner
from .tokenization import eos_ids

LONGEST_DEFAULT = 8192  # positions, unless asked for more
CHOICES = ("auto", "on", "off")


@dataclass
class LoadedEngine:
    """A loaded checkpoint: the engine, its model, and the audit of the fusion."""

    model: LoadedModel
    engine: Engine
    audit: FusionAudit


def load(
    checkpoint: str, options: EngineOptions | None = None, adapter: Adapter | None = None
) -> LoadedEngine:
    """Open `checkpoint` (folder, Hub id or demo name), 4-bit or 16-bit, ours or others'.

    adapter: merged in a 16-bit model

    Raises ModelError, CheckpointError, or RequestError for invalid options.
    """
    options = options or EngineOptions()
    device = find_device(options.device)
    dtype = _dtype(options, device)
    # float16 has 11 bits and half the bytes of float32
    auto = torch.float16 if dtype == torch.float32 else dtype
    kv_dtype = dtype_of(options.kv_dtype, auto, "kv_dtype")
    model = load_model(checkpoint, device, dtype, options.kernel, adapter)
    context = _context(model, options)
    # One extra position, for the padding rows of a compiled step.
    fused, audit = fuse(model, context + 1) if options.fuse else (None, FusionAudit())
    if not options.fuse:
        audit.note("the model runs as Transformers has it", "fusion was switched off")
    compiled = options.compile == "on" or (options.compile == "auto" and device.type == "cuda")
    if fused is None:
        runner: Runner = ModelRunner(model, options.slots, context, kv_dtype)
    else:
        runner = FusedRunner(model, fused, options.slots, context, kv_dtype, compiled=compiled)
    generation = getattr(model.module, "generation_config", None) or model.config
    engine = Engine(runner, model.tokenizer, eos_ids(generation, model.tokenizer))
    release_memory()
    return LoadedEngine(model, engine, audit)


def _dtype(options: EngineOptions, device: torch.device) -> torch.dtype:
    """The activations' type: float32 for the C++ kernels, else 16 bits."""
    if options.compile not in CHOICES:
        raise RequestError(f"compile={options.compile!r}. Give one of {', '.join(CHOICES)}.")
    if options.slots < 1:
        raise RequestError(f"{options.slots} sequences at once. Give at least 1.")
    if device.type == "cpu":
        auto = torch.float32 if isinstance(load_library(), Library) else torch.bfloat16
    else:
        auto = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return dtype_of(options.dtype, auto)


def _context(model: LoadedModel, options: EngineOptions) -> int:
    """Positions of a slot. Raises RequestError for more than the model was made for."""
    most = getattr(model.config, "max_position_embeddings", None)
    if options.context_length is None:
        return min(most or LONGEST_DEFAULT, LONGEST_DEFAULT)
    if options.context_length < 2:
        raise RequestError(f"A context of {options.context_length} tokens. Give at least 2.")
    if most and options.context_length > most:
        raise RequestError(
            f"A context of {options.context_length} tokens, but the model was made for {most}. "
            f"Give at most {most}."
        )
    return options.context_length
