"""From a config.json to a ModelShape, block by block. Imports no torch.

Not counted: layers for multi-token prediction, with a note, and weights that an unknown family has
in addition to a Llama's.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from salient.core.errors import ModelError, brief

from .blocks import MIXERS, attention_block, dense_block, experts_block, is_true
from .config_aliases import ALIASES
from .config_bounds import check_bounds
from .config_reader import CLASS_DEFAULTS, ENCODERS, MOST_LAYERS, ConfigReader
from .families import ARCHITECTURES, ExpertNames, Family, MlpNames
from .layer_types import attentions, feeds
from .model_shape import BlockShape, CacheShape, ModelShape
from .multimodal import towers
from .quantization_parts import quantization_settings
from .recorded_values import RecordedValues
from .rough_counts import doubted, doubts_of_config

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
    shape = _shape(layout, reader, whole)
    return doubted(shape, doubts_of_config(shape, whole, reader, family))


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
    return kind if kind in ARCHITECTURES or f"{kind}_text" not in ARCHITECTURES else f"{kind}_text"


def _llama_like(text: ConfigReader) -> Family:
    """A Llama, with experts as wide as its MLP where the config has no width for them."""
    experts = UNKNOWN.experts
    if experts and not text.has(experts.inner):
        experts = replace(experts, inner="intermediate_size")
    return replace(UNKNOWN, experts=experts)


def _shape(family: Family, reader: ConfigReader, whole: ConfigReader) -> ModelShape:
    layers = reader.count("num_hidden_layers", most=MOST_LAYERS)
    hidden, vocab = reader.count("hidden_size"), reader.count("vocab_size")
    blocks: dict[tuple[str, str], BlockShape] = {}
    plan = list(zip(attentions(family, reader, layers), feeds(family, reader, layers), strict=True))
    for kinds in dict.fromkeys(plan):
        blocks[kinds] = _block(family, reader, *kinds)
    vector = hidden * (2 if family.norm_bias else 1)
    narrow = reader.count("word_embed_proj_dim", hidden)
    context = reader.count("max_position_embeddings", 0, least=0)
    embedding = vocab * narrow
    if family.positions is not None:
        embedding += (context + family.positions) * hidden
    tied = reader.flag("tie_word_embeddings", default=family.tied)
    tied = whole.flag("tie_word_embeddings", default=tied)
    head_bias = vocab if is_true(family.head_bias, reader) else 0
    tower_counts, remarks = towers(whole, hidden)
    other = reader.count("outer_norms", family.outer_norms, least=0) * vector
    if narrow != hidden:  # OPT-350m projects its narrow embedding, there and back
        other += 2 * narrow * hidden
    return ModelShape(
        model_type=whole.model_type,
        hidden=hidden,
        vocab=vocab,
        blocks=tuple(blocks[kinds] for kinds in plan),
        embedding=embedding,
        head=0 if tied else vocab * narrow + head_bias,
        other=other + (head_bias if tied else 0),
        towers=tower_counts,
        context=context or None,
        dtype=_dtype(reader, whole),
        quantization=_quantization(whole, reader),
        notes=(*remarks, *_remarks(reader, plan, family)),
    )


def _block(family: Family, reader: ConfigReader, attention: str, feed: str) -> BlockShape:
    """One block: its attention or mixer, its MLP or experts, its norms."""
    parts: list[BlockShape] = []
    if attention in ("mixer", "both"):
        parts.append(MIXERS[family.mixer](family.mixer_module, reader))
    if attention not in ("mixer", "none"):
        kind = "full" if attention == "both" else attention
        parts.append(attention_block(family.attention, reader, kind))
    if feed == "experts" and family.experts:
        parts.append(experts_block(family.experts, reader))
    elif feed == "dense" and family.mlp:
        parts.append(dense_block(family.mlp, family.inner_times, reader))
    norms = reader.count("block_norms", family.norms, least=0)
    vector = reader.count("hidden_size") * (2 if family.norm_bias else 1)
    caches = [part.cache for part in parts if part.cache.values] or [CacheShape()]
    return BlockShape(
        ", ".join(part.kind for part in parts if part.kind),
        tuple(linear for part in parts for linear in part.linears),
        replace(caches[0], state=sum(part.cache.state for part in parts)),
        sum(part.other for part in parts) + norms * vector + family.extra,
    )


def _quantization(*configs: ConfigReader) -> dict[str, Any]:
    """The settings of the first config, whichever part of it has them."""
    for config in configs:
        config.section("quantization_config")  # refuses what is no object
    return quantization_settings(configs[0].values.original)


def _dtype(reader: ConfigReader, whole: ConfigReader) -> str:
    key, name = whole.value("dtype")
    name = reader.value("dtype")[1] if name is None else name
    if name is None or name == "auto":
        return "bfloat16"
    if not isinstance(name, str):
        whole.refuse(key, "the name of a type, such as 'bfloat16'", name)
    return name.removeprefix("torch.")


def _remarks(reader: ConfigReader, plan: list[tuple[str, str]], family: Family) -> list[str]:
    """Notes on what was not counted."""
    notes: list[str] = []
    ahead = reader.count("num_nextn_predict_layers", 0, least=0, most=MOST_LAYERS)
    if ahead:
        notes.append(
            f"its files may hold {ahead} more layer(s) for multi-token prediction; not counted, "
            "since engines load them for speculative decoding only"
        )
    unknown = sum(kind in ("mixer", "both") for kind, _ in plan)
    if family.mixer == "unknown" and unknown:
        notes.append(f"{unknown} blocks have no attention of a known kind: their parts are missing")
    return notes
