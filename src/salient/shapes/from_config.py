"""From a config.json to a Shape: the arithmetic of a decoder, block by block. Imports no torch.

Left out: what a file may hold beside the model (layers for multi-token prediction), which a note
says, and weights that an unknown family has beyond a Llama's.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from salient.core.errors import ModelError

from .attention import attention_block, holds
from .config_aliases import TRANSLATIONS
from .config_reader import MOST_LAYERS, ConfigReader, shown
from .families_dense import ARCHITECTURES
from .family import ExpertNames, Family, MlpNames
from .layer_types import attentions, feeds
from .mixer import MIXERS
from .mlp import dense_block, experts_block
from .model_shape import BlockShape, CacheShape, ModelShape
from .multimodal import towers

TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
# What a text part inside another config leaves out, since it is its class's own value: the
# configuration classes of Transformers 5.23. LLaVA's and Gemma 3's published configs need it.
UNSAID: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048,
    },
    "mistral": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "gemma3_text": {
        "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
    },
}  # fmt: skip
ENCODERS = frozenset((
    "albert", "bart", "bert", "big_bird", "camembert", "clip", "convbert", "data2vec-text",
    "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm", "gte", "led", "m2m_100",
    "marian", "mbart", "mobilebert", "modernbert", "mpnet", "mt5", "nomic_bert", "pegasus",
    "roberta", "roformer", "siglip", "speech_to_text", "squeezebert", "switch_transformers", "t5",
    "umt5", "vit", "wav2vec2", "whisper", "xlm", "xlm-roberta", "xlnet",
))  # fmt: skip
# An unknown family: a Llama that says where it has a window, experts, or something else.
UNKNOWN = Family(
    mlp=MlpNames(),
    experts=ExpertNames(shared=MlpNames("mlp.shared_experts", bias=False)),
    mixer="unknown",
    window="all",
    defaults={"n_shared_experts": 0, "full_attention_interval": 1},
)


def family_of(config: Mapping[str, Any], source: str = "config.json") -> str:
    """The name of the family of a model's text part, a row of ARCHITECTURES where it is known.

    Raises ModelError for what is no decoder of text.
    """
    whole = ConfigReader(config, source)
    return _family(whole, _text_part(whole))


def read_shape(config: Mapping[str, Any], source: str = "config.json") -> ModelShape:
    """The shape of the model that `config` describes, at 16 bits whatever is stored.

    `source` is the file's name for errors. Raises ModelError naming the key, its value and what
    fits, or the kinds of model that fit.
    """
    if not isinstance(config, Mapping):
        raise ModelError(f"{source} holds {shown(config)}, not a JSON object. Fetch it again.")
    whole = ConfigReader(config, source)
    text = _text_part(whole)
    kind = _family(whole, text)
    row = ARCHITECTURES.get(kind)
    notes = []
    if row is None:
        row = _guessed(text)
        notes.append(
            f"model type {kind!r} is unknown: counted as a Llama-like decoder; give a folder with "
            "its safetensors for exact counts"
        )
    nested = text.found is not config
    defaults = {**(UNSAID.get(kind, {}) if nested else {}), **row.defaults}
    says = ConfigReader(text.found, source, row.keys, defaults)
    if kind in TRANSLATIONS:
        says = replace(says, found={**text.found, **TRANSLATIONS[kind](says)})
    return _shape(row, says, whole, notes)


def _text_part(whole: ConfigReader) -> ConfigReader:
    """The language model's own config, inside that of a model with towers."""
    text = whole
    for _ in TEXT_PARTS:
        inner = next((word for word in TEXT_PARTS if text.has(word)), None)
        if inner is None:
            break
        text = replace(text, found=text.part(inner))
    if not isinstance(text.found.get("model_type"), str):
        text = replace(text, found={**text.found, "model_type": whole.model_type})
    return text


def _family(whole: ConfigReader, text: ConfigReader) -> str:
    """The row's name. Raises ModelError for what is no decoder of text."""
    kind = text.model_type
    named = next((one for one in (whole.model_type, kind) if one in ENCODERS), None)
    if named or whole.flag("is_encoder_decoder") or text.flag("is_encoder_decoder"):
        raise ModelError(
            f"{whole.source} describes a model of type {named or kind!r}, which is no decoder-only "
            "language model. Models that write text left to right fit: Llama, Qwen, Mistral, "
            "Gemma, mixtures of experts, hybrids with Mamba, and those with a vision tower."
        )
    return kind if kind in ARCHITECTURES or f"{kind}_text" not in ARCHITECTURES else f"{kind}_text"


def _guessed(text: ConfigReader) -> Family:
    """A Llama, with experts as wide as its MLP where the config has no width for them."""
    experts = UNKNOWN.experts
    if experts and not text.has(experts.inner):
        experts = replace(experts, inner="intermediate_size")
    return replace(UNKNOWN, experts=experts)


def _shape(row: Family, says: ConfigReader, whole: ConfigReader, notes: list[str]) -> ModelShape:
    layers = says.count("num_hidden_layers", most=MOST_LAYERS)
    hidden, vocab = says.count("hidden_size"), says.count("vocab_size")
    made: dict[tuple[str, str], BlockShape] = {}
    plan = list(zip(attentions(row, says, layers), feeds(row, says, layers), strict=True))
    for kinds in dict.fromkeys(plan):
        made[kinds] = _block(row, says, *kinds)
    vector = hidden * (2 if row.norm_bias else 1)
    narrow = says.count("word_embed_proj_dim", hidden)
    context = says.count("max_position_embeddings", 0, least=0)
    embedding = vocab * narrow
    if row.positions is not None:
        embedding += (context + row.positions) * hidden
    tied = _tied(row, says, whole)
    head_bias = vocab if holds(row.head_bias, says) else 0
    beside, remarks = towers(whole, hidden)
    other = says.count("outer_norms", row.outer_norms, least=0) * vector
    if narrow != hidden:  # OPT-350m projects its narrow embedding, there and back
        other += 2 * narrow * hidden
    return ModelShape(
        model_type=whole.model_type,
        hidden=hidden,
        vocab=vocab,
        blocks=tuple(made[kinds] for kinds in plan),
        embedding=embedding,
        head=0 if tied else vocab * narrow + head_bias,
        other=other + (head_bias if tied else 0),
        towers=beside,
        context=context or None,
        dtype=_dtype(says, whole),
        quantization=_quantization(says, whole),
        notes=(*notes, *remarks, *_remarks(says, plan, row)),
    )


def _block(row: Family, says: ConfigReader, attention: str, feed: str) -> BlockShape:
    """One block: its attention or what stands for it, its MLP or experts, its norms."""
    parts = []
    if attention in ("mixer", "both"):
        parts.append(MIXERS[row.mixer](row.mixer_module, says))
    if attention not in ("mixer", "none"):
        kind = "full" if attention == "both" else attention
        parts.append(attention_block(row.attention, says, kind))
    if feed == "experts" and row.experts:
        parts.append(experts_block(row.experts, says))
    elif feed == "dense" and row.mlp:
        parts.append(dense_block(row.mlp, row.inner_times, says))
    norms = says.count("block_norms", row.norms, least=0)
    vector = says.count("hidden_size") * (2 if row.norm_bias else 1)
    caches = [part.cache for part in parts if part.cache.values] or [CacheShape()]
    return BlockShape(
        ", ".join(part.kind for part in parts if part.kind),
        tuple(linear for part in parts for linear in part.linears),
        replace(caches[0], state=sum(part.cache.state for part in parts)),
        sum(part.other for part in parts) + norms * vector + row.extra,
    )


def _tied(row: Family, says: ConfigReader, whole: ConfigReader) -> bool:
    """Whether the head is the embedding: the whole config's word, then its text part's."""
    inner = says.flag("tie_word_embeddings", default=row.tied)
    return whole.flag("tie_word_embeddings", default=inner)


def _dtype(says: ConfigReader, whole: ConfigReader) -> str:
    key, name = whole.value("dtype")
    name = says.value("dtype")[1] if name is None else name
    if name is None or name == "auto":
        return "bfloat16"
    if not isinstance(name, str):
        whole.refuse(key, "the name of a type, such as 'bfloat16'", name)
    return name.removeprefix("torch.")


def _quantization(says: ConfigReader, whole: ConfigReader) -> dict[str, Any]:
    return whole.part("quantization_config") or says.part("quantization_config")


def _remarks(says: ConfigReader, plan: list[tuple[str, str]], row: Family) -> list[str]:
    """What the reader should know of what was not counted."""
    made = []
    ahead = says.count("num_nextn_predict_layers", 0, least=0, most=MOST_LAYERS)
    if ahead:
        made.append(
            f"its files may hold {ahead} more layer(s) for multi-token prediction; not counted, "
            "since engines load them for speculative decoding only"
        )
    unknown = sum(kind in ("mixer", "both") for kind, _ in plan)
    if row.mixer == "unknown" and unknown:
        made.append(f"{unknown} blocks have no attention of a known kind: their parts are missing")
    return made
