"""Texts -> tokens: every token is used or counted as dropped, and too little text is said so."""

import json
import re

import pytest
import torch

from helpers.chat_templates import (
    ANSWER,
    CALL,
    CHATML,
    GEMMA,
    MISTRAL,
    RESULT,
    SMOLVLM,
    TOOL_ROW,
    USER,
    WEATHER,
    with_template,
)
from helpers.toy_models import byte_tokenizer
from salient.core.conversations import to_document
from salient.core.corpus import Document
from salient.core.errors import CalibrationError, ModelError
from salient.models import token_packing
from salient.models.token_packing import FEWEST_TOKENS, TokenBatch, pack_tokens
from salient.models.tokens import (
    check_vocabulary,
    load_tokenizer,
    token_ids,
    tokenizer_note,
)

CHAT = Document(
    messages=({"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}),
    kind="chat",
)
FIRST, SECOND = "abcdefgh" * 5, "stuvwxyz" * 5
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def letters(count: int, kind: str = "text") -> Document:
    """A text of `count` tokens: the byte tokenizer gives one a letter, and one more ends it."""
    return Document(("abcdefghij" * count)[: count - 1], kind=kind)


def test_documents_are_joined_with_the_end_of_text_between_them(tokenizer):
    batch = pack_tokens([Document(FIRST), Document(SECOND)], tokenizer, 1, 64, "texts")
    text = tokenizer.decode(batch.ids[0])
    assert text == FIRST + "</s>" + SECOND[:23]


def test_a_tokenizer_without_an_end_of_text_joins_them_bare():
    bare = byte_tokenizer()
    bare.eos_token = None
    batch = pack_tokens([Document(FIRST), Document(SECOND)], bare, 1, 64, "texts")
    assert bare.decode(batch.ids[0]) == FIRST + SECOND[:24]


def test_short_documents_are_packed_and_long_ones_cut(tokenizer):
    documents = [letters(10) for _ in range(20)] + [letters(200)]
    batch = pack_tokens(documents, tokenizer, 3, 100, "texts")
    assert batch.ids.shape == (3, 100)
    assert batch.ids.dtype == torch.int64
    assert batch.documents == 21
    assert batch.dropped_tokens == 100


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_every_token_is_used_or_counted_as_dropped(samples, tokenizer):
    documents = [letters(n, kind) for n in (33, 70, 128, 251) for kind in ("prose", "code")]
    total = sum(len(tokenizer(d.text).input_ids) + 1 for d in documents)
    batch = pack_tokens(documents, tokenizer, samples, 128, "texts")
    assert sum(batch.kinds.values()) == samples * 128
    assert batch.dropped_tokens == total - samples * 128


def test_tokens_are_counted_by_the_kind_of_their_text(tokenizer):
    documents = [letters(50, "prose"), letters(30, "code"), letters(40, "prose")]
    batch = pack_tokens(documents, tokenizer, 1, 100, "texts")
    assert batch.kinds == {"prose": 70, "code": 30}


def test_text_that_just_suffices_drops_nothing(tokenizer):
    batch = pack_tokens([letters(128)], tokenizer, 2, 64, "texts")
    assert batch.dropped_tokens == 0


def test_more_text_after_enough_changes_no_token(tokenizer):
    documents = [letters(100), letters(200)]
    one = pack_tokens(documents, tokenizer, 2, 64, "texts")
    other = pack_tokens([*documents, letters(500)], tokenizer, 2, 64, "texts")
    assert torch.equal(one.ids, other.ids)
    assert one.digest == other.digest


@pytest.mark.parametrize(
    ("samples", "length"), [(0, 512), (-1, 512), (1, FEWEST_TOKENS - 1), (1, 0)]
)
def test_too_few_samples_or_tokens_name_the_minimum(samples, length, tokenizer):
    message = rf"--samples {samples} of --sequence-length {length}: use at least 1 of 64 tokens"
    with pytest.raises(CalibrationError, match=message):
        pack_tokens([letters(1000)], tokenizer, samples, length, "texts")


def test_too_little_text_says_how_many_samples_it_makes(tokenizer):
    message = (
        r"my\.txt has 300 tokens, but 3 samples of 128 need 384\. "
        r"Use --samples 2, or more text"
    )
    with pytest.raises(CalibrationError, match=message):
        pack_tokens([letters(300)], tokenizer, 3, 128, "my.txt")


def test_too_little_text_speaks_in_the_options_of_its_command(tokenizer):
    options = ("--windows", "--window-length")
    with pytest.raises(CalibrationError, match=r"Use --windows 2, or more text"):
        pack_tokens([letters(300)], tokenizer, 3, 128, "my.txt", options)
    with pytest.raises(CalibrationError, match=r"shorter --window-length .*, or more text"):
        pack_tokens([letters(300)], tokenizer, 1, 512, "my.txt", options)


@pytest.mark.parametrize(
    ("tokens", "samples", "length"),
    [(300, 3, 128), (300, 128, 128), (300, 1, 512), (300, 3, 512), (64, 128, 512), (100, 1, 101)],
)
def test_the_advice_on_too_little_text_works_when_it_is_followed(
    tokens, samples, length, tokenizer
):
    with pytest.raises(CalibrationError, match="or more text") as raised:
        pack_tokens([letters(tokens)], tokenizer, samples, length, "my.txt")
    message = str(raised.value)
    if fewer := re.search(r"--samples (\d+)", message):
        samples = int(fewer[1])
    if shorter := re.search(r"--sequence-length \D*(\d+)", message):
        length = int(shorter[1])
    pack_tokens([letters(tokens)], tokenizer, samples, length, "my.txt")


def test_text_below_the_shortest_sample_gets_no_advice_to_shorten_samples(tokenizer):
    with pytest.raises(CalibrationError, match="more text") as raised:
        pack_tokens([letters(40)], tokenizer, 1, 512, "my.txt")
    assert "--sequence-length" not in str(raised.value)


def test_no_documents_are_too_little_text(tokenizer):
    with pytest.raises(CalibrationError, match=r"my\.txt has 0 tokens, .* more text"):
        pack_tokens([], tokenizer, 1, 64, "my.txt")


# Texts that mean nothing


@pytest.mark.parametrize(
    "text",
    ["", " \n ", "\x00" * 500, "a" * 500, "-=" * 300, "</s></s>", "\u200b\ufeff"],
    ids=ascii,
)
def test_documents_without_a_token_of_their_own_are_refused_with_their_rows(text, tokenizer):
    documents = [Document(text, where=f"a.jsonl, line {n}") for n in range(1, 9)]
    pattern = (
        r"a\.jsonl: 8 of 8 documents have no token of their own: .* "
        r"\(line 1, line 2, line 3, line 4, line 5 and 3 more\)\. Use text like"
    )
    with pytest.raises(CalibrationError, match=pattern):
        pack_tokens(documents, tokenizer, 1, 64, "a.jsonl")


def test_a_few_empty_rows_among_good_ones_are_left_out_and_named(tokenizer):
    good = [Document(FIRST, where=f"a.jsonl, line {n}") for n in range(1, 9)]
    empty = Document("", where="a.jsonl, line 9")
    batch = pack_tokens([*good, empty], tokenizer, 2, 64, "a.jsonl")
    assert torch.equal(batch.ids, pack_tokens(good, tokenizer, 2, 64, "a.jsonl").ids)
    (note,) = batch.notes
    assert note.startswith("a.jsonl: 1 of 9 documents have no token of their own")
    assert note.endswith("(line 9). They were left out.")


@pytest.mark.parametrize("text", ["abc " * 60, "the the the the " * 30, "1" * 60 + " "])
def test_a_text_that_repeats_itself_is_refused(text, tokenizer):
    with pytest.raises(CalibrationError, match=r"my\.txt has only \d different tokens in 128"):
        pack_tokens([Document(text)] * 10, tokenizer, 2, 64, "my.txt")


def test_a_ruled_line_among_text_is_no_document(tokenizer):
    batch = pack_tokens([letters(100), Document("-" * 80), letters(100)], tokenizer, 2, 64, "a")
    assert "---" not in tokenizer.decode(batch.ids.flatten())


def test_a_tokenizer_that_fails_names_the_row():
    tokenizer = byte_tokenizer()

    def fails(*_, **__):
        raise Exception("data did not match any variant of untagged enum ModelWrapper\nat line 3")

    tokenizer._encode_plus = fails
    pattern = (
        r"a\.jsonl, line 4: The tokenizer cannot read the text \(data did not match any variant"
    )
    with pytest.raises(CalibrationError, match=pattern) as raised:
        token_ids(Document("abc", where="a.jsonl, line 4"), tokenizer)
    assert "\n" not in str(raised.value)


# Conversations


def test_a_conversation_goes_through_the_chat_template():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    assert tokenizer.decode(token_ids(CHAT, tokenizer)) == "<user>Why?<assistant>So."


def test_without_a_chat_template_a_conversation_is_plain_text(tokenizer):
    assert tokenizer.decode(token_ids(CHAT, tokenizer)) == "User: Why?\n\nAssistant: So."


def test_a_text_is_never_put_through_the_chat_template():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    assert tokenizer.decode(token_ids(Document("Why?"), tokenizer)) == "Why?"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"messages": [USER, CALL, RESULT]}, "tool_calls"),
        ({"messages": [USER, ANSWER], "tools": [WEATHER]}, "tools"),
        ({"messages": [USER, {**ANSWER, "thinking": "Hm."}]}, "thinking"),
        ({"messages": [USER, ANSWER], "documents": [{"title": "Oslo"}]}, "documents"),
    ],
)
def test_what_only_a_template_can_write_is_refused_without_one(row, field, tokenizer):
    pattern = rf"a\.jsonl, line 2: the model has no chat template, so '{field}' cannot be written"
    with pytest.raises(CalibrationError, match=pattern):
        token_ids(to_document(row, "a.jsonl, line 2"), tokenizer)


@pytest.mark.parametrize(
    ("template", "row", "pattern"),
    [
        (
            GEMMA,
            {"messages": [{"role": "system", "content": "Be kind."}, USER]},
            r"System role not supported\. Its roles are system, user\. Move the system text to",
        ),
        (
            GEMMA,
            {"messages": [USER, USER]},
            r"roles must alternate .* Its roles are user, user\. Merge neighbouring messages",
        ),
        (
            MISTRAL,
            {"messages": [USER, {**RESULT, "tool_call_id": "short"}]},
            r"Tool call IDs should be alphanumeric .* Give each tool call and its answer the same",
        ),
        (CHATML, TOOL_ROW, r"does not write messages\[1\]\.tool_calls: 'get_weather' is not in"),
        (CHATML, {**TOOL_ROW, "messages": [USER, ANSWER]}, r"does not write tools\[0\]: "),
        (
            CHATML,
            {"messages": [USER, {**ANSWER, "reasoning_content": "Winter is cold."}]},
            r"does not write messages\[1\]\.reasoning_content: 'Winter'",
        ),
        ("{% for m in messages %}", {"messages": [USER]}, r"does not render: TemplateSyntaxError"),
        ("{{ range(10**9) }}", {"messages": [USER]}, r"does not render: OverflowError"),
        ({"a": "x", "b": "y"}, {"messages": [USER]}, r"templates 'a', 'b' and none of them is"),
    ],
)
def test_a_row_that_the_template_cannot_write_is_named_with_what_to_change(template, row, pattern):
    document = to_document(row, "rows.jsonl, line 7")
    with pytest.raises(CalibrationError, match="rows.jsonl, line 7: the model's chat.*" + pattern):
        token_ids(document, with_template(template))


def test_images_are_left_out_and_counted(tmp_path):
    parts = [{"type": "image"}, {"type": "text", "text": "What is shown here, in detail?"}]
    row = {"messages": [{"role": "user", "content": parts}, ANSWER]}
    documents = [to_document(row, f"a.jsonl, line {n}") for n in range(8)]
    batch = pack_tokens(documents, with_template(SMOLVLM), 2, 64, "a.jsonl")
    assert batch.notes == (
        "a.jsonl: 8 parts that are not text, such as images, in 8 conversations were left out; the "
        "text part is calibrated with text.",
    )


def test_a_template_that_takes_too_long_for_all_rows_is_refused(monkeypatch):
    monkeypatch.setattr(token_packing, "RENDER_SECONDS", -1.0)
    monkeypatch.setattr(token_packing, "RENDER_EACH", 0.0)
    with pytest.raises(CalibrationError, match=r"chat template took \d+ seconds for 1 of 3 conv"):
        pack_tokens([CHAT] * 3, with_template(TEMPLATE), 1, 64, "a.jsonl")


# Tokenizers


@pytest.mark.parametrize(
    ("files", "pattern"),
    [
        ({}, r"has no tokenizer file\. Fetch tokenizer\.json"),
        ({"tekken.json": "{}"}, r"only tokenizer is tekken\.json, which needs mistral-common"),
        ({"tokenizer.model": "\x00\x01"}, r"only tokenizer is tokenizer\.model, which needs"),
        ({"tokenizer.json": '{"model": 1}'}, r"tokenizer\.json is there, but damaged or written"),
        ({"tokenizer.json": "{"}, r"tokenizer\.json is there, but damaged or written"),
        ({"qwen.tiktoken": "IQ== 0"}, r"only tokenizer is of tiktoken"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_says_what_is_there_and_what_to_do(
    files, pattern, tmp_path
):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=r"no tokenizer that can be read \(.*\)\. .*" + pattern):
        load_tokenizer(tmp_path)


def test_the_code_of_a_tokenizer_is_never_run_nor_offered(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "odd"}')
    mapped = {"auto_map": {"AutoTokenizer": ["mine.Mine", None]}, "tokenizer_class": "Mine"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(mapped))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: ...")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    with pytest.raises(ModelError, match="needs its own code"):
        load_tokenizer(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_tokens_beyond_the_embedding_are_a_warning_that_names_them(tokenizer):
    largest = max(tokenizer.get_vocab().values())
    assert tokenizer_note(tokenizer, largest + 1) is None
    note = tokenizer_note(tokenizer, largest - 1)
    assert note is not None
    assert re.search(rf"has 2 tokens beyond the {largest - 1} rows .* up to {largest}: '", note)


# Batches


def test_a_digest_is_of_the_ids_and_their_shape():
    ids = torch.arange(128)
    one = TokenBatch(ids.reshape(1, 128), documents=1, dropped_tokens=0)
    assert one.digest == TokenBatch(ids.reshape(1, 128), documents=9, dropped_tokens=9).digest
    assert one.digest != TokenBatch(ids.reshape(2, 64), documents=1, dropped_tokens=0).digest
    assert one.digest != TokenBatch(ids.flip(0).reshape(1, 128), 1, 0).digest


@pytest.mark.parametrize(("largest", "vocabulary"), [(320, 320), (400, 320)])
def test_a_token_without_a_row_in_the_embedding_blames_the_tokenizer(largest, vocabulary):
    batch = TokenBatch(torch.tensor([[1, largest]]), 1, 0)
    message = (
        rf"turned my\.txt into token ids up to {largest}, but the model's vocabulary has "
        rf"{vocabulary}\. .* belong to another model: fetch the folder again"
    )
    with pytest.raises(CalibrationError, match=message):
        check_vocabulary(batch.ids, vocabulary, "my.txt")


def test_the_last_row_of_the_embedding_may_be_used():
    check_vocabulary(torch.tensor([[0, 319]]), 320, "my.txt")
