"""The checkpoint's tokenizer and chat template against the reference's.

Compared by content, as the tokenizers library has it after loading (so that a file that was saved
again is the same), and by behaviour: texts of all kinds to tokens and back, conversations to text.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from salient.core.carried_files import TOKENIZER_FILES
from salient.core.corpus import Document, builtin
from salient.core.errors import ModelError
from salient.core.model_files import as_object, read_json
from salient.models.chat_template import CALIBRATION_DATE, render_conversation
from salient.models.template_process import LIMITS, TemplateFault
from salient.models.tokens import load_tokenizer
from salient.validate.model_pair import ModelPair, PairMember

from .difference import FileDifference, listed, shown

# Parts of a tokenizer.json that make another tokenizer, however alike they behave on our texts.
DECISIVE = ("normalizer", "pre_tokenizer", "added_tokens")
# Parts that only matter by what they do.
OTHERS = ("post_processor", "decoder", "truncation", "padding")
SPECIAL = ("bos", "eos", "unk", "sep", "cls", "mask")
SETTINGS = ("pad_token_id", "padding_side", "truncation_side", "model_max_length")
CONFIG = "tokenizer_config.json"
# Of its keys: what versions of Transformers write that reads any tokenizer.json alike.
BOOKKEEPING = ("backend", "is_local", "local_files_only")
GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
LETTERS = 2000  # of each text
TEMPLATE_SECONDS = 2.0  # for the conversations; a template that hangs has a limit of its own
SECONDS = 20.0  # for the texts; a tokenizer in Python is slow
EDGES = (
    "".join(map(chr, range(32, 127))),
    "  two  spaces\ttab\r\nline\n\n\n end  ",
    "\uff21 \ufb01 ½ ² e\u0301 é ñ \ufdfa İ ß ẞ \u2126",  # changed by Unicode's normal forms
    "ÀÉÎÕÜ accents, UPPER lower, 0123456789 3.14 1,000,000 10^6",
    "日本語 中文 한국어 العربية עברית हिन्दी ไทย Ελληνικά Русский",
    "🙂 👩‍👩‍👧 🇩🇪 \u200b\u00a0\u2028 \ufffd",
    "def f(x):\n    return {'a': [1, 2], \"b\": x ** 2}  # <html> &amp; </s> <s> [INST] <|im_end|>",
)
CONVERSATIONS: tuple[tuple[dict[str, str], ...], ...] = (
    ({"role": "user", "content": "What is the capital of France?"},),
    (
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Name a colour."},
    ),
    (
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi. What can I do?"},
        {"role": "user", "content": "Sum 2 and 3."},
    ),
)
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
)


Json = Mapping[str, Any]


def tokenizer_differences(pair: ModelPair) -> Iterator[FileDifference]:
    """Raises ModelError where the reference has no tokenizer that can be read."""
    files = [_tokenizer_files(side) for side in pair.sides]
    if files[0] == files[1] and len(files[0]) > 2:
        return
    reference = load_tokenizer(pair.reference.companions)
    try:
        own = load_tokenizer(pair.checkpoint.companions)
    except ModelError as error:
        message = f"The checkpoint has no tokenizer that can be read: {error}"
        yield FileDifference("tokenizer", f"{message} {_copy(pair.reference)}", judged=True)
        return
    contents = _content(reference), _content(own)
    faults = [*_vocabulary(reference, own), *_model_parts(*contents)]
    faults += [
        f"{name}_token is {shown(now)} and not {shown(then)}"
        for name in SPECIAL
        if (then := _special(reference, name)) != (now := _special(own, name))
    ]
    texts = _texts_that_differ(reference, own)
    if texts:
        faults.append(f"{len(texts)} of our texts have other tokens, such as {shown(texts[0])}")
    if faults:
        message = f"The checkpoint's tokenizer is not the reference's: {listed(faults)}."
        yield FileDifference(
            "tokenizer", f"{message} {_copy(pair.reference)}", judged=True, count=len(faults)
        )
    others = _other_keys(*contents, OTHERS) + [
        f"{name} ({shown(getattr(own, name, None))}, {shown(getattr(reference, name, None))})"
        for name in SETTINGS
        if getattr(own, name, None) != getattr(reference, name, None)
    ]
    if others:
        message = f"The tokenizer's settings are not the reference's: {listed(others)}."
        yield FileDifference("tokenizer", message, count=len(others))
    yield from _template(pair, reference, own)


def _tokenizer_files(side: PairMember) -> dict[str, object]:
    """All that a tokenizer is made of: digests of files, the settings, the kind of model.

    {} where they cannot be read, which loading it names.
    """
    try:
        files: dict[str, object] = {**side.companion_digests(TOKENIZER_FILES)}
        settings = read_json(side.companions / CONFIG) if files.pop(CONFIG, None) else {}
    except ModelError:
        return {}
    if settings.get("tokenizer_class") in GENERIC_CLASSES:
        settings["tokenizer_class"] = None
    own = {key: value for key, value in settings.items() if key not in BOOKKEEPING}
    return {**files, CONFIG: own, "model_type": side.source.config.get("model_type")}


def _copy(reference: PairMember) -> str:
    return f"Copy the tokenizer files of {reference.name} into it."


def _content(tokenizer: Any) -> dict[str, Any]:
    """The tokenizer as the tokenizers library writes it; {} for one in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {} if backend is None else json.loads(backend.to_str())


def _other_keys(reference: Json, own: Json, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if reference.get(key) != own.get(key)]


def _model_parts(reference: Json, own: Json) -> list[str]:
    """The parts that make another tokenizer, but for the vocabulary."""
    models = [as_object(content.get("model")) for content in (reference, own)]
    keys = dict.fromkeys(key for model in models for key in model if key != "vocab")
    return [*_other_keys(reference, own, DECISIVE), *_other_keys(models[0], models[1], keys)]


def _vocabulary(reference: Any, own: Any) -> list[str]:
    """Tokens that have another id, or that only one of the two has."""
    ids, own_ids = reference.get_vocab(), own.get_vocab()
    if ids == own_ids:
        return []
    differing = [token for token in {**ids, **own_ids} if ids.get(token) != own_ids.get(token)]
    first = differing[0]
    return [
        f"{len(differing)} tokens of the vocabulary, such as {shown(first)} "
        f"({own_ids.get(first)}, {ids.get(first)})"
    ]


def _special(tokenizer: Any, name: str) -> tuple[object, object]:
    token = getattr(tokenizer, f"{name}_token", None)
    return (None if token is None else str(token), getattr(tokenizer, f"{name}_token_id", None))


def _texts_that_differ(reference: Any, own: Any) -> list[str]:
    """The texts that become other tokens, or whose tokens become another text."""
    corpus = (document.text[:LETTERS] for document in builtin("heldout") if document.text)
    special = " ".join(dict.fromkeys([*reference.all_special_tokens, *own.all_special_tokens]))
    until, differing = time.monotonic() + SECONDS, []
    for text in (*EDGES, special, *corpus):
        if _round_trip(reference, text) != _round_trip(own, text):
            differing.append(text)
        if time.monotonic() > until:
            break
    return differing


def _round_trip(tokenizer: Any, text: str) -> tuple[object, ...]:
    """Tokens with and without special ones, and the text of them; a failure as its class."""
    try:
        whole, bare = (
            list(tokenizer(text, add_special_tokens=special, verbose=False).input_ids)
            for special in (True, False)
        )
        return (
            whole,
            bare,
            tokenizer.decode(whole),
            tokenizer.decode(bare, skip_special_tokens=True),
        )
    except Exception as error:  # noqa: BLE001  the tokenizers library raises bare Exception
        return (type(error).__name__,)


def _template(pair: ModelPair, reference: Any, own: Any) -> Iterator[FileDifference]:
    """The templates, by their text; where that differs, by what they write."""
    then, now = (tokenizer.chat_template or None for tokenizer in (reference, own))
    if then == now:
        return
    name = pair.reference.name
    if then is None or now is None:
        has, lacks = ("reference", "checkpoint") if now is None else ("checkpoint", "reference")
        message = f"The {has} has a chat template, the {lacks} has none."
        advice = f"Copy that of {name} into the checkpoint." if now is None else "Remove it."
        yield FileDifference("chat_template", f"{message} {advice}", judged=True)
        return
    pairs = _rendered_pairs(reference, own)
    other = sum(one != two for one, two in pairs)
    if other:
        message = (
            f"The checkpoint's chat template writes {other} of {len(pairs)} conversations "
            f"otherwise than the reference's, so another prompt is answered. Copy the template of "
            f"{name} into the checkpoint."
        )
    else:
        message = (
            "The checkpoint's chat template is not the reference's; it writes our "
            f"{len(pairs)} conversations alike."
        )
    yield FileDifference("chat_template", message, judged=bool(other), count=max(other, 1))


def _rendered_pairs(reference: Any, own: Any) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Our conversations as both templates write them: those before time is up, one at least."""
    until, pairs = time.monotonic() + TEMPLATE_SECONDS, []
    for document in _conversations():
        pairs.append((_rendered(reference, document), _rendered(own, document)))
        if time.monotonic() > until:
            break
    return pairs


def _conversations() -> Iterator[Document]:
    for messages in CONVERSATIONS:
        yield Document(messages=messages)
    yield Document(messages=CONVERSATIONS[0], tools=TOOLS)


def _rendered(tokenizer: Any, document: Document) -> tuple[str, ...]:
    """The conversation's text, for an answer and whole; a refusal as its reason."""

    texts: list[str] = []
    for prompt in (True, False):
        try:
            texts.append(
                render_conversation(
                    tokenizer,
                    document,
                    strict=False,
                    now=CALIBRATION_DATE,
                    add_generation_prompt=prompt,
                )
            )
        except TemplateFault as fault:
            texts.append(f"{fault.kind}: {fault.reason}")
            if fault.kind in LIMITS:
                break
    return tuple(texts)
