"""The Transformers model of a config, without weights: class, decoder blocks, buffers."""

from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from salient.core.errors import ModelError, library_errors
from salient.core.remote_code import is_remote_code_allowed
from salient.core.report import mebibytes
from salient.core.system import available_memory
from salient.formats.checkpoint import Checkpoint
from salient.shapes.config_bounds import check_bounds

from .pretrained import from_folder
from .ties import untie

# Endings of the classes that Salient quantizes; older and headless ones have other names.
TRAINED = ("ForCausalLM", "ForConditionalGeneration", "ForSequenceClassification")
PLAIN_CLASSES = {
    *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
    *map(str, MODEL_MAPPING_NAMES.values()),
}


def build_model(
    source: Checkpoint, dtype: torch.dtype, *, tied: bool = True, vocabulary: int | None = None
) -> Any:
    """The model that `source` describes, on the meta device; without `tied`, its head untied.

    vocabulary: rows of the embedding, if not those of the config

    Buffers that no file stores are computed.

    Raises ModelError if the installed Transformers cannot build it.
    """
    check_bounds(source.config, f"config.json in {source.folder}", source.headers)
    with library_errors(
        f"config.json in {source.folder} does not describe a causal language model that the "
        "installed Transformers can build",
        "Check model_type and the sizes in config.json, or update Transformers.",
    ):
        config = from_folder(AutoConfig, source.folder)
        if hasattr(config, "quantization_config"):
            delattr(config, "quantization_config")
        if not tied:
            untie(config)
        if vocabulary is not None:
            config.get_text_config().vocab_size = vocabulary
        with torch.device("meta"):
            model = _from_config(config, dtype)
        restore_buffers(model)
    return model


def _from_config(config: Any, dtype: torch.dtype) -> Any:
    """The class that the config names, which was trained; else the usual one for its type.

    A config of text and images has several classes, some of which would leave out the images' part.
    Raises ModelError for classes that Salient cannot judge.
    """
    names = [str(name) for name in getattr(config, "architectures", None) or ()]
    _check_decoder(config, names)
    known = [name for name in names if hasattr(transformers, name)]
    for name in known:
        if name.endswith(TRAINED) or name in PLAIN_CLASSES:
            return getattr(transformers, name)._from_config(config, dtype=dtype)
    trust = is_remote_code_allowed() and bool(getattr(config, "auto_map", None))
    others = [name for name in names if name not in PLAIN_CLASSES and not name.endswith(TRAINED)]
    if others and not trust:
        own = "needs its own code, which Salient does not run (see --trust-remote-code)"
        reason = "has another head" if others[0] in known else own
        raise ModelError(
            f"config.json names {others[0]}, which {reason}. Salient quantizes language models, "
            f"embedding models (...Model) and heads of {', '.join(TRAINED)}."
        )
    several = config.get_text_config() is not config
    usual = AutoModelForImageTextToText if several else AutoModelForCausalLM
    return usual.from_config(config, dtype=dtype, trust_remote_code=trust)


def _check_decoder(config: Any, names: list[str]) -> None:
    """Refuse encoders, whose tokens read those that follow, and encoder-decoder models."""
    name = names[0] if names else config.model_type
    if config.is_encoder_decoder:
        raise ModelError(
            f"{name} is an encoder-decoder model. Salient quantizes decoders: no engine runs AWQ "
            "checkpoints of encoder-decoder models."
        )
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if masked and not getattr(config, "is_decoder", False):
        raise ModelError(
            f"{name} is a masked language model (an encoder), not a causal one. Salient quantizes "
            "decoders: no engine runs AWQ checkpoints of encoders."
        )


def decoder_of(model: Any) -> tuple[str, nn.Module]:
    """The part of `model` that turns text into hidden states, and its name in the model."""
    decoder = model.get_decoder()
    if not any(isinstance(m, nn.ModuleList) for m in decoder.modules()):
        decoder = model.base_model  # a head may be called decoder, too
    return name_of(model, decoder), decoder


def block_list(model: Any) -> tuple[str, nn.ModuleList]:
    """The list of decoder blocks and its name: the largest list in the text part."""
    prefix, decoder = decoder_of(model)
    lists = [(n, m) for n, m in decoder.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise ModelError(
            f"{type(model).__name__} has no list of decoder blocks: Salient cannot stream it."
        )
    name, largest = max(lists, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    return f"{prefix}.{name}".lstrip("."), largest


def name_of(model: nn.Module, part: nn.Module | None) -> str:
    """The name of the module `part` in `model`; '' if it is not part of it."""
    return next((name for name, module in model.named_modules() if module is part), "")


def text_parts(model: Any) -> tuple[str, ...]:
    """The prefixes of the parameters that text passes; vision towers and projectors have others."""
    decoder, _ = decoder_of(model)
    if model.config.get_text_config() is model.config or not decoder:
        return ("",)
    return f"{decoder}.", f"{name_of(model, model.get_input_embeddings())}."


def restore_buffers(model: Any) -> None:
    """Compute the buffers that no file stores (rotary frequencies), as Transformers does.

    Runs twice over different fill values: a buffer that retains its fill value was not computed.
    Raises ModelError naming such a buffer.
    """
    lost = {
        (part, name): f"{path}.{name}"
        for path, part in model.named_modules()
        for name in part._non_persistent_buffers_set
        if (buffer := part._buffers.get(name)) is not None and buffer.is_meta
    }
    _check_room(model, lost)
    first = _filled(model, lost, 0)
    second = _filled(model, lost, 1)
    for (part, name), path in lost.items():
        if not torch.equal(first[part, name], second[part, name]):
            raise ModelError(
                f"{path!r} of {type(model).__name__} is in no file, and the installed Transformers "
                "does not compute it. Update Transformers."
            )


def _check_room(model: Any, lost: dict[tuple[nn.Module, str], str]) -> None:
    """Refuse buffers that two copies of fill the memory: a config of absurd positions, say."""
    sizes: dict[str, int] = {}
    for (part, name), path in lost.items():
        buffer = part._buffers[name]
        sizes[path] = 0 if buffer is None else buffer.numel() * buffer.element_size()
    needed, free = 2 * sum(sizes.values()), available_memory()
    if needed > free:
        largest = max(sizes, key=lambda path: sizes[path])
        raise ModelError(
            f"The tables that config.json asks for take {mebibytes(needed)}, and {mebibytes(free)} "
            f"are free; the largest is {largest!r} of {type(model).__name__}. Check "
            "max_position_embeddings in config.json."
        )


def _filled(
    model: Any, lost: dict[tuple[nn.Module, str], str], value: int
) -> dict[tuple[nn.Module, str], torch.Tensor]:
    """The buffers `lost` after they were filled with `value` and initialized."""
    for part, name in lost:
        part._buffers[name] = torch.full_like(part._buffers[name], value, device="cpu")  # type: ignore[arg-type]
    homes = {part for part, _ in lost}
    with torch.no_grad():
        _initialize(model, model, homes)
    return {key: key[0]._buffers[key[1]] for key in lost}  # type: ignore[misc]


def _initialize(model: Any, part: nn.Module, homes: set[nn.Module]) -> None:
    """Initialize `homes` and all models that may hold them, each by the innermost model's rules."""
    model = part if isinstance(part, PreTrainedModel) else model
    for child in part.children():
        _initialize(model, child, homes)
    if part in homes or part is model:
        model._init_weights(part)
