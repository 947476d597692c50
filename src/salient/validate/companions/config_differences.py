"""config.json and generation_config.json of the checkpoint against the reference's.

Where answers end, and how positions are rotated, is read from several keys, of which engines
prefer different ones: a contradiction is served otherwise than it was judged.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from salient.core.errors import ModelError
from salient.core.model_files import as_object, read_json
from salient.models.pretrained import GENERATION_CONFIG
from salient.validate.model_pair import ModelPair, PairMember

from .difference import FileDifference, listed, shown

ROPE_KEYS = ("rope_theta", "partial_rotary_factor")
ROPE_TABLES = ("rope_scaling", "rope_parameters")
# What engines assume where a key is missing.
ROPE_DEFAULTS: dict[str, object] = {"rope_type": "default", "rope_theta": 10000.0}
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Keys that a quantizer writes, that name versions and files, or that are compared for themselves.
IGNORED = frozenset(
    [
        *ROPE_KEYS,
        *ROPE_TABLES,
        *TOKEN_IDS,
        *("quantization_config", "compression_config", "transformers_version", "_name_or_path"),
        *(
            "_from_model_config",
            "use_cache",
            "dtype",
            "torch_dtype",
            "_attn_implementation_autoset",
        ),
    ]
)
Json = Mapping[str, Any]


def config_differences(pair: ModelPair) -> Iterator[FileDifference]:
    """Raises ModelError where the reference's generation_config.json cannot be read."""
    reference, own = (_text_config(side.source.config) for side in pair.sides)
    yield from _rope(reference, own)
    yield from _generation(pair, reference, own)
    yield from _others(*(side.source.config for side in pair.sides))


def _text_config(config: Json) -> Json:
    """The config with the keys of its language model in their place."""
    return {**config, **as_object(config.get("text_config"))}


# Rotary positions


def rope_values(config: Json) -> dict[str, dict[str, object]]:
    """Key -> where it stands -> its value, of all keys that say how positions are rotated."""
    values: dict[str, dict[str, object]] = {}
    for key in ROPE_KEYS:
        if config.get(key) is not None:
            values.setdefault(key, {})[key] = config[key]
    for name in ROPE_TABLES:
        for key, value in as_object(config.get(name)).items():
            if value is not None:
                named = "rope_type" if key == "type" else key
                values.setdefault(named, {})[f"{name}.{key}"] = value
    return values


def _contradictions(config: Json) -> list[str]:
    return [
        " and ".join(f"{place} {shown(value)}" for place, value in places.items())
        for places in rope_values(config).values()
        if any(value != next(iter(places.values())) for value in places.values())
    ]


def _effective_rope(config: Json) -> dict[str, object]:
    """Each key's value, the newest place's where they contradict, and defaults."""
    values = {key: [*places.values()][-1] for key, places in rope_values(config).items()}
    return {**ROPE_DEFAULTS, **values}


def _rope(reference: Json, own: Json) -> Iterator[FileDifference]:
    contradictions = _contradictions(own)
    if contradictions:
        both = contradictions == _contradictions(reference)
        yield FileDifference(
            "rope",
            f"The config.json of the checkpoint{' and of the reference' * both} contradicts itself "
            f"on rotary positions: {listed(contradictions)}. Engines read one or the other: leave "
            "one.",
            judged=not both,
            count=len(contradictions),
        )
    then, now = _effective_rope(reference), _effective_rope(own)
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if keys:
        pairs = [f"{key} {shown(now.get(key))} ({shown(then.get(key))})" for key in keys]
        yield FileDifference(
            "rope",
            f"Rotary positions are not the reference's: {listed(pairs)}.",
            count=len(keys),
        )


# Generation


def stop_tokens(config: Json, generation: Json) -> list[int]:
    """The ids at which answers end, sorted."""
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    ids = ends if isinstance(ends, list) else [ends]
    return sorted(end for end in ids if isinstance(end, int))


def _generation_config(side: PairMember) -> Json:
    path = side.companions / GENERATION_CONFIG
    return read_json(path) if path.exists() else {}


def _generation(pair: ModelPair, reference: Json, own: Json) -> Iterator[FileDifference]:
    generation = _generation_config(pair.reference)
    try:
        own_generation = _generation_config(pair.checkpoint)
    except ModelError as error:
        yield FileDifference("generation_config", str(error), judged=True)
        return
    then, now = stop_tokens(reference, generation), stop_tokens(own, own_generation)
    if then != now:
        yield FileDifference(
            "stop_tokens",
            f"The checkpoint's answers end at the tokens {shown(now)}, the reference's at "
            f"{shown(then)}. Set eos_token_id in generation_config.json and config.json as in "
            f"{pair.reference.name}.",
            judged=True,
            count=len(set(then) ^ set(now)),
        )
    for name, one, two in (
        ("generation_config", generation, own_generation),
        ("config", reference, own),
    ):
        ids = {key: (two.get(key), one.get(key)) for key in TOKEN_IDS}
        more = {**one, **two} if name == "generation_config" else {}
        others = {k: (two.get(k), one.get(k)) for k in more if k not in IGNORED}
        pairs = [
            f"{key} {shown(now)} ({shown(then)})"
            for key, (now, then) in {**ids, **others}.items()
            if now != then and (key != "eos_token_id" or name == "config")
        ]
        if pairs:
            yield FileDifference(
                name,  # pyright: ignore[reportArgumentType]
                f"{name}.json is not as the reference's: {listed(pairs)}.",
                count=len(pairs),
            )


# The rest


def _others(reference: Json, own: Json) -> Iterator[FileDifference]:
    """Other keys that both have, with other values."""
    pairs = [
        f"{key} {shown(own[key])} ({shown(value)})"
        for key, value in reference.items()
        if key in own and key not in IGNORED and _plain(own[key]) != _plain(value)
    ]
    then, now = (config.get("dtype", config.get("torch_dtype")) for config in (reference, own))
    if then and now and then != now:
        pairs.append(f"dtype {shown(now)} ({shown(then)})")
    if pairs:
        message = f"config.json is not as the reference's: {listed(pairs)}."
        yield FileDifference("config", message, count=len(pairs))


def _plain(value: object) -> object:
    """A nested config without the keys that are ignored."""
    if not isinstance(value, dict):
        return value
    return {key: _plain(each) for key, each in value.items() if key not in IGNORED}
