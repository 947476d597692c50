"""From a config.json to a ModelShape, block by block. Imports no torch.

Counted apart: layers for multi-token prediction. Not counted: weights that an unknown family has in
addition to a Llama's.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from salient.core.errors import ModelError, brief
from salient.core.records import is_list

from .absent_keys import TIED, assumed_lines
from .ahead import count_ahead
from .attention import attention_block
from .block_values import block_values, listed_values
from .blocks import dense_block, experts_block, is_true
from .config_aliases import ALIASES
from .config_bounds import check_bounds
from .config_reader import CLASS_DEFAULTS, ENCODERS, MOST_LAYERS, ConfigReader
from .extras import IN_BLOCK, OUTSIDE
from .families import ARCHITECTURES, ExpertNames, Family, MlpNames
from .layer_types import attentions, feeds
from .mixers import MIXERS
from .model_shape import BlockShape, CacheShape, ModelShape
from .multimodal import towers
from .quantization_parts import quantization_settings
from .recorded_values import RecordedValues
from .rope import read_rope
from .rough_counts import doubted, doubts_of_config

FLOATS = re.compile(r"(b?float|fp|bf)\d+(_e\d+m\d+\w*)?|half|float|double")
TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
# An unknown family: a Llama whose config may name windows, experts and mixers.
UNKNOWN = Family(
    mlp=MlpNames(),
    experts=ExpertNames(shared=MlpNames("mlp.shared_experts", bias=False)),
    mixer="unknown",
    window="all",
    defaults={"n_shared_experts": 0, "full_attention_interval": 1},
)


def family_of(config: Mapping[str, Any], source: str = "config.json") -> str:
    """The name of the family of a model's text part, a key of ARCHITECTURES where it is known.

    Raises ModelError for anything but a decoder of text.
    """
    whole = ConfigReader(RecordedValues(config), source)
    return _family(whole, _text_part(whole))


def read_shape(config: Mapping[str, Any], source: str = "config.json") -> ModelShape:
    """The unquantized shape of the model that `config` describes, whatever is stored.

    `source` is the file's name for errors. Raises ModelError naming the key, its value and what
    fits, or the kinds of model that fit.
    """
    if not isinstance(config, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ModelError(f"{source} holds {brief(config)}, not a JSON object. Fetch it again.")
    check_bounds(config, source)
    whole = ConfigReader(RecordedValues(config), source)
    text = _text_part(whole)
    kind = _family(whole, text)
    family = ARCHITECTURES.get(kind)
    layout = family or _llama_like(text)
    nested = CLASS_DEFAULTS.get(kind, {}) if text.values.path else {}
    reader = replace(text, keys=layout.keys, defaults={**nested, **layout.defaults})
    if kind in ALIASES:
        reader = reader.replaced(ALIASES[kind](reader))
    classes = whole.values.get("architectures")
    named = classes[0] if is_list(classes) and classes and isinstance(classes[0], str) else ""
    shape = _shape(layout, reader, whole)
    shape = replace(shape, assumed=assumed_lines(reader, family), architecture=named)
    return doubted(shape, doubts_of_config(shape, whole, reader, family, kind))


def _text_part(whole: ConfigReader) -> ConfigReader:
    """The language model's own config, inside that of a model with towers."""
    text = whole
    for _ in TEXT_PARTS:
        inner = next((key for key in TEXT_PARTS if text.has(key)), None)
        if inner is None:
            break
        text = replace(text, values=text.section(inner))
    if not isinstance(text.values.get("model_type"), str):
        text = text.replaced({"model_type": whole.model_type})
    return text


def _family(whole: ConfigReader, text: ConfigReader) -> str:
    """The family's name. Raises ModelError for anything but a decoder of text."""
    kind = text.model_type
    encoder = next((name for name in (whole.model_type, kind) if name in ENCODERS), None)
    if encoder or whole.flag("is_encoder_decoder") or text.flag("is_encoder_decoder"):
        raise ModelError(
            f"{whole.source} describes a model of type {encoder or kind!r}, which is no "
            "decoder-only language model. Models that write text left to right fit: Llama, Qwen, "
            "Mistral, Gemma, mixtures of experts, hybrids with Mamba, vision towers too."
        )
    kind = kind.removesuffix("_model") if kind not in ARCHITECTURES else kind
    names = [name for name in (kind, f"{kind}_text") if name in ARCHITECTURES]
    return names[0] if names else _family_of_class(whole) or text.model_type


def _family_of_class(whole: ConfigReader) -> str:
    """The family of the model's class, "DeepseekV4ForCausalLM", where its type is of no family."""
    listed = whole.value("architectures")[1]
    if not is_list(listed) or len(listed) != 1 or not isinstance(listed[0], str):
        return ""
    plain = listed[0].partition("For")[0].lower()
    return next((kind for kind in ARCHITECTURES if kind.replace("_", "") == plain), "")


def _llama_like(text: ConfigReader) -> Family:
    """A Llama, with experts as wide as its MLP where the config has no width for them."""
    experts = UNKNOWN.experts
    if experts and not text.has(experts.inner):
        experts = replace(experts, inner="intermediate_size")
    return replace(UNKNOWN, experts=experts)


def _shape(family: Family, reader: ConfigReader, whole: ConfigReader) -> ModelShape:
    layers = reader.count("num_hidden_layers", most=MOST_LAYERS)
    hidden, vocab = reader.count("hidden_size"), reader.count("vocab_size")
    listed = listed_values(reader, layers)
    reader = reader.replaced(listed[-1])
    attention, feed = attentions(family, reader, layers), feeds(family, reader, layers)
    own = block_values(family.per_block, reader, attention, listed)
    blocks = _blocks(family, reader, list(zip(attention, feed, own, strict=True)))
    vector = hidden * (2 if family.norm_bias else 1)
    narrow = reader.count("word_embed_proj_dim", hidden)
    context = reader.count("max_position_embeddings", 0, least=0)
    rope = read_rope(reader.values.original, reader.values.path)
    embedding = vocab * narrow
    if family.positions is not None:
        embedding += (context + family.positions) * hidden
    tied = _tied(family, reader, whole)
    head_bias = vocab if is_true(family.head_bias, reader) else 0
    tower_counts, remarks = towers(whole, hidden)
    other = reader.count("outer_norms", family.outer_norms, least=0) * vector
    if narrow != hidden:  # OPT-350m projects its narrow embedding, there and back
        other += 2 * narrow * hidden
    for name in family.outside:
        tables, rest = OUTSIDE[name](reader)
        embedding, other = embedding + tables, other + rest
    head = 0 if tied else vocab * narrow + head_bias
    last = reader.replaced(own[-1])
    ahead, predicted = count_ahead(
        family,
        last,
        embedding + head,
        (attention[-1], feed[-1]),
        lambda attention, feed: _block(family, last, attention, feed),
    )
    return ModelShape(
        model_type=whole.model_type,
        hidden=hidden,
        vocab=vocab,
        blocks=blocks,
        embedding=embedding,
        head=head,
        other=other + (head_bias if tied else 0),
        towers=tower_counts,
        context=max(context, rope.scaled_context) or None,
        rope=rope,
        dtype=_dtype(reader, whole),
        quantization=_quantization(whole, reader),
        notes=(*remarks, *predicted, *_missing_parts(attention, family)),
        ahead=ahead,
    )


def _blocks(
    family: Family, reader: ConfigReader, plan: list[tuple[str, str, dict[str, Any]]]
) -> tuple[BlockShape, ...]:
    """Every block, equal ones built once."""
    built: dict[tuple[str, str, str], BlockShape] = {}
    blocks: list[BlockShape] = []
    for attention, feed, own in plan:
        key = (attention, feed, repr(own))
        if key not in built:
            built[key] = _block(family, reader.replaced(own), attention, feed)
        blocks.append(built[key])
    return tuple(blocks)


def _block(family: Family, reader: ConfigReader, attention: str, feed: str) -> BlockShape:
    """One block: its attention or mixer, its MLP or experts, its norms."""
    parts: list[BlockShape] = []
    if attention in ("mixer", "both"):
        parts.append(MIXERS[family.mixer](family.mixer_module, reader))
    if attention not in ("mixer", "none"):
        kind = "full" if attention == "both" else attention
        parts.append(attention_block(family.attention, reader, kind))
    if feed in ("dense", "both") and family.mlp:
        parts.append(dense_block(family.mlp, family.inner_times, reader))
    if feed in ("experts", "both") and family.experts:
        parts.append(experts_block(family.experts, reader))
    parts += [IN_BLOCK[name](reader) for name in family.extras]
    norms = reader.count("block_norms", family.norms, least=0)
    vector = reader.count("hidden_size") * (2 if family.norm_bias else 1)
    caches = [c for c in (part.cache for part in parts) if c.values or c.entry_values]
    return BlockShape(
        ", ".join(part.kind for part in parts if part.kind),
        tuple(linear for part in parts for linear in part.linears),
        replace((caches or [CacheShape()])[0], state=sum(part.cache.state for part in parts)),
        sum(part.other for part in parts) + norms * vector + family.extra,
    )


def _quantization(*configs: ConfigReader) -> dict[str, Any]:
    """The settings of the first config, whichever part of it has them."""
    for config in configs:
        config.section("quantization_config")  # refuses what is no object
    return quantization_settings(configs[0].values.original)


def _tied(family: Family, reader: ConfigReader, whole: ConfigReader) -> bool:
    """Whether the head is the embedding: by the whole config, the text's, or the family."""
    stated = [config.flag(TIED) for config in (whole, reader) if config.has(TIED)]
    if not stated:
        reader.assume(TIED, family.tied)
    return stated[0] if stated else family.tied


def _dtype(reader: ConfigReader, whole: ConfigReader) -> str:
    key, name = whole.value("dtype")
    name = reader.value("dtype")[1] if name is None else name
    if name is None or name == "auto":
        return "bfloat16"
    plain = name.removeprefix("torch.") if isinstance(name, str) else ""
    if not FLOATS.fullmatch(plain):
        whole.refuse(key, "the name of a floating-point type, such as 'bfloat16'", name)
    return plain


def _missing_parts(attention: list[str], family: Family) -> list[str]:
    """A note on the mixers of an unknown family."""
    unknown = sum(kind in ("mixer", "both") for kind in attention)
    if family.mixer == "unknown" and unknown:
        return [f"{unknown} blocks have no attention of a known kind: their parts are missing"]
    return []
