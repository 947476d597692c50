"""The tokenizer: whether it loads, and whether its ids fit each other and the embedding."""

from salient.core.model_files import as_object
from salient.diagnose.finding import Finding
from salient.diagnose.rule import SHOWN, Place

from .companion_files import (
    SETTINGS,
    SPECIAL,
    TOKENIZER,
    VOCABULARY,
    CompanionFiles,
    token_text,
)
from .contents import FINDINGS, as_integer, as_json

FEW = 1024  # tokens that are looked for in templates
FEWEST = 0.75  # of the embedding's rows that have a token; paddings and reserves are smaller


def check_tokenizer_files(read: CompanionFiles) -> list[Finding]:
    """Findings on tokenizer.json and the special tokens of its settings."""
    findings: list[Finding] = []
    if fault := read.trial.fault or read.trial.refusal:
        certainty = None if read.trial.fault else "likely"
        findings += FINDINGS["tokenizer-refused"].at([(TOKENIZER, fault)], certainty=certainty)
    if read.tokens and read.rows:
        findings += _check_rows(read, read.rows)
    return [*findings, *_check_special(read), *_check_added_ids(read), *_check_vocabulary(read)]


def _check_rows(read: CompanionFiles, rows: int) -> list[Finding]:
    """Ids beyond the embedding, and an embedding with far more rows than there are ids."""
    beyond = sorted((id, token) for token, id in read.tokens.items() if not 0 <= id < rows)
    size = max(read.tokens.values()) + 1
    base = any(id >= rows for id in read.base_tokens.values())
    text = "".join([*read.templates.values(), *read.all_special.values()])
    used = base or any(token and token in text for _, token in beyond[:FEW])
    count = f"{len(read.tokens)} tokens, ids up to {size - 1}; the embedding has {rows} rows"
    file = TOKENIZER if TOKENIZER in read.files else VOCABULARY
    few = [(file, count)] if size < FEWEST * rows else []
    return [
        *FINDINGS["tokenizer-beyond-embedding"].at(
            ((f"{file}: {as_json(token)}", f"id {id}") for id, token in beyond[:SHOWN]),
            count=len(beyond),
            level=None if used else "warning",
            rows=rows,
        ),
        *FINDINGS["tokenizer-partial"].at(few),
    ]


def _check_special(read: CompanionFiles) -> list[Finding]:
    """Special tokens that the two files name differently, or that the vocabulary lacks."""
    settings, legacy = (read.special_tokens(file) for file in (SETTINGS, SPECIAL))
    differ = [
        (f"{SPECIAL}: {role}", f"{as_json(token)}; {SETTINGS} has {as_json(settings[role])}")
        for role, token in legacy.items()
        if settings.get(role, token) != token
    ]
    named = {token: role for role, token in [*read.more_special, *read.all_special.items()]}
    unknown = [token for token in named if read.tokens and token not in read.tokens]
    absent = [(f"{SETTINGS}: {named[token]}", as_json(token)) for token in unknown]
    size = max(read.tokens.values(), default=-1) + 1
    endless = read.all_special.get("eos_token", "") in unknown
    beyond = read.rows and size + len(unknown) > read.rows
    level = None if beyond or endless else "warning"
    return [
        *FINDINGS["special-tokens-differ"].at(differ),
        *FINDINGS["special-token-unknown"].at(absent, level=level, next=size),
    ]


def _check_added_ids(read: CompanionFiles) -> list[Finding]:
    """Ids in tokenizer_config.json that tokenizer.json gives to other tokens."""
    by_id = {id: token for token, id in read.tokens.items()}
    wrong: list[Place] = []
    decoder = as_object(read.files.get(SETTINGS, {}).get("added_tokens_decoder"))
    for key, value in decoder.items():
        id, token = as_integer(key), token_text(value)
        stored = by_id.get(-1 if id is None else id)
        if read.tokens and stored is not None and token and stored != token:
            text = f"{as_json(token)}; {TOKENIZER} has {as_json(stored)}"
            wrong.append((f"{SETTINGS}: added_tokens_decoder.{key}", text))
    return FINDINGS["added-tokens-differ"].at(wrong)


def _check_vocabulary(read: CompanionFiles) -> list[Finding]:
    """vocab.json against tokenizer.json, where a folder has both."""
    other = read.files.get(VOCABULARY, {})
    if TOKENIZER not in read.files or not other or not read.base_tokens:
        return []
    tokens = read.tokens
    wrong = [token for token, id in other.items() if tokens.get(token) != id]
    places = [
        (
            f"{VOCABULARY}: {as_json(token)}",
            f"{as_json(other[token])}; {TOKENIZER} has {tokens.get(token)}",
        )
        for token in wrong[:SHOWN]
    ]
    return FINDINGS["vocabularies-differ"].at(places, count=len(wrong))
