"""Ids of special tokens, where answers end, and sampling values, by config.json and
generation_config.json."""

import math
from collections.abc import Callable
from typing import Any

from salient.core.model_files import as_object
from salient.core.records import is_list
from salient.diagnose.finding import Finding
from salient.diagnose.rule import Place

from .companion_files import GENERATION, SETTINGS, CompanionFiles
from .contents import FINDINGS, as_json, change
from .quant_config import CONFIG

ID_KEYS = ("eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id")
EOS = ID_KEYS[0]
FEW = 16  # ids that a step spells out
NONE = -1  # of bos and pad in old configs
# Sampling values: what vLLM 0.32 (sampling_params.py) and Transformers accept.
ACCEPTED: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: value >= 0, "0 or more"),
    "top_p": (lambda value: 0 < value <= 1, "above 0, at most 1"),
    "top_k": (lambda value: value >= -1 and value % 1 == 0, "a whole number, 0 for all"),
    "min_p": (lambda value: 0 <= value <= 1, "0 to 1"),
    "repetition_penalty": (lambda value: value > 0, "above 0"),
}


def check_generation(read: CompanionFiles) -> list[Finding]:
    """Findings on the ids and values that generation starts from."""
    return [*_check_ids(read), *_check_ends(read), *_check_values(read)]


def _id_list(value: object) -> list[Any]:
    return value if is_list(value) else [] if value is None else [value]


def _sources(read: CompanionFiles) -> dict[str, dict[str, Any]]:
    text = as_object(read.config.get("text_config"))
    nested = {f"{CONFIG}: text_config": text} if text else {}
    return {CONFIG: read.config, **nested, GENERATION: read.files.get(GENERATION, {})}


def _check_ids(read: CompanionFiles) -> list[Finding]:
    wrong: list[tuple[str, Place]] = []
    for file, settings in _sources(read).items():
        for key in ID_KEYS:
            for id in _id_list(settings.get(key)):
                fits = type(id) is int and 0 <= id < (read.rows or 2**31)
                if not fits and not (id == NONE and key != EOS):
                    wrong.append((key, (f"{file}: {key}", as_json(id))))
    return FINDINGS["token-id-outside"].at(
        (place for _, place in wrong),
        level=None if any(key == EOS for key, _ in wrong) else "warning",
        fits=f"0 to {read.rows - 1}" if read.rows else "a whole number",
    )


def _check_ends(read: CompanionFiles) -> list[Finding]:
    """The ends of an answer: generation_config.json against config.json and the tokenizer."""
    sources = {file: _id_list(values.get(EOS)) for file, values in _sources(read).items()}
    generation = sources.pop(GENERATION)
    declared: list[Any] = next(filter(None, sources.values()), list[Any]())
    ends = generation or declared
    token = read.all_special.get("eos_token", "")
    own = read.tokens.get(token)
    if not ends and not token:
        return FINDINGS["eos-missing"].at([(CONFIG, f"no {EOS}"), (SETTINGS, "no eos_token")])
    where = GENERATION if generation else CONFIG
    if ends and own is not None and own not in ends:
        places = [(f"{where}: {EOS}", as_json(ends)), (f"{SETTINGS}: eos_token", f"{token}, {own}")]
        plain = len(ends) < FEW and all(type(id) is int for id in ends)
        steps = change(where, EOS, ends, [own, *ends]) if plain else ()
        return FINDINGS["eos-differs"].at(places, count=1, steps=steps, token=token, file=where)
    if generation and declared and not set(map(str, declared)) <= set(map(str, generation)):
        places = [(f"{CONFIG}: {EOS}", as_json(declared)), (f"{GENERATION}: {EOS}", as_json(ends))]
        return FINDINGS["eos-contradicts"].at(places, count=1)
    return []


def _check_values(read: CompanionFiles) -> list[Finding]:
    wrong: list[Place] = []
    for key, (accepts, fits) in ACCEPTED.items():
        value = read.files.get(GENERATION, {}).get(key)
        number = type(value) is int or (type(value) is float and math.isfinite(value))
        if value is not None and not (number and accepts(value)):
            wrong.append((f"{GENERATION}: {key}", f"{as_json(value)}; {fits} fits"))
    return FINDINGS["generation-values"].at(wrong)
