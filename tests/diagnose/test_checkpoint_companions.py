"""Files next to the weights: tokenizer, special tokens, generation settings, chat templates."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.faults import alarms, copied, text_of
from helpers.rtn_checkpoints import rounded_toy
from helpers.toy_models import byte_tokenizer, toy_folder
from salient.core.model_files import read_json
from salient.diagnose.checkpoint.check import read_checkpoint
from salient.diagnose.finding import Finding

TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
TOKENIZER, SETTINGS, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
GENERATION, JINJA = "generation_config.json", "chat_template.jinja"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A tiny 4-bit Llama that chats: 259 tokens, 320 rows; do not change it."""
    folder = rounded_toy(tmp_path_factory.mktemp("companions"))
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def toy(good, tmp_path):
    return copied(good, tmp_path / "toy")


def write(folder: Path, name: str, **changes: Any) -> None:
    """Change keys of a JSON file, which need not exist; None removes one."""
    value = read_json(folder / name) if (folder / name).exists() else {}
    fields = {key: item for key, item in {**value, **changes}.items() if item is not None}
    (folder / name).write_text(json.dumps(fields))


def add_token(folder: Path, token: str, id: int) -> None:
    tokenizer = read_json(folder / TOKENIZER)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    tokenizer["added_tokens"].append({"id": id, "content": token, **flags})
    (folder / TOKENIZER).write_text(json.dumps(tokenizer))


def add_base(folder: Path, token: str, id: int) -> None:
    tokenizer = read_json(folder / TOKENIZER)
    tokenizer["model"]["vocab"][token] = id
    (folder / TOKENIZER).write_text(json.dumps(tokenizer))


def finding_of(folder: Path, id: str) -> Finding:
    findings = {finding.id: finding for finding in read_checkpoint(folder).findings}
    assert id in findings, findings.keys()
    return findings[id]


def test_good_companions_raise_no_alarm(toy, tmp_path):
    assert alarms(read_checkpoint(toy)) == []
    assert "template-missing" in [
        f.id for f in read_checkpoint(toy_folder(tmp_path / "x")).findings
    ]


@pytest.mark.parametrize(
    "name", [TOKENIZER, SETTINGS, SPECIAL, "added_tokens.json", "vocab.json", GENERATION]
)
@pytest.mark.parametrize(
    "text", ["{", "[1]", "version https://git-lfs.github.com/spec/v1\nsize 9\n"]
)
def test_a_companion_that_is_no_json_object_is_named(name, text, toy):
    (toy / name).write_text(text)
    finding = read_checkpoint(toy).findings[0]
    assert finding.id in ("companion-damaged", "tokenizer-refused")
    assert finding.level == "error"
    assert name in text_of(finding)


@pytest.mark.parametrize(
    ("change", "id", "level", "text"),
    [
        (lambda f: add_base(f, "zzz", 320), "tokenizer-beyond-embedding", "error", "id 320"),
        (
            lambda f: add_token(f, "<x>", 400),
            "tokenizer-beyond-embedding",
            "warning",
            '"<x>" id 400',
        ),
        (
            lambda f: write(f, SETTINGS, pad_token="[PAD]"),
            "special-token-unknown",
            "warning",
            "[PAD]",
        ),
        (
            lambda f: (
                add_base(f, "last", 319),
                write(f, SETTINGS, pad_token={"content": "[PAD]"}),
            ),
            "special-token-unknown",
            "error",
            "next id, 320",
        ),
        (
            lambda f: write(f, SPECIAL, eos_token="<pad>"),
            "special-tokens-differ",
            "warning",
            'eos_token "<pad>"; tokenizer_config.json has "</s>"',
        ),
        (
            lambda f: write(f, SETTINGS, added_tokens_decoder={"2": {"content": "<end>"}}),
            "added-tokens-differ",
            "warning",
            'added_tokens_decoder.2 "<end>"; tokenizer.json has "</s>"',
        ),
        (
            lambda f: write(f, SETTINGS, additional_special_tokens=["<s>", "<tool>"]),
            "special-token-unknown",
            "warning",
            'additional_special_tokens "<tool>"',
        ),
        (
            lambda f: write(f, "vocab.json", a=5),
            "vocabularies-differ",
            "warning",
            'vocab.json: "a" 5; tokenizer.json has',
        ),
    ],
)
def test_tokens_that_do_not_fit_are_named(change, id, level, text, toy):
    change(toy)
    finding = finding_of(toy, id)
    assert finding.level == level
    assert text in text_of(finding)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "tokenizer.json "),
        ({"model": {"type": "Unknown", "vocab": {"a": 0}}}, "tokenizer.json "),
        ({"model": None}, "tokenizer.json "),
        (
            {"normalizer": {"type": "Prepend", "prepend": "x" * 1000}},
            "can make 1000 letters of one",
        ),
    ],
)
def test_a_tokenizer_that_does_not_load_is_an_error(changes, text, toy):
    write(toy, TOKENIZER, **changes)
    finding = finding_of(toy, "tokenizer-refused")
    assert finding.level == "error"
    assert text in text_of(finding)


def test_a_tokenizer_of_few_tokens_may_be_of_another_model(tmp_path):
    folder = toy_folder(tmp_path / "model", vocab_size=1024)
    finding = finding_of(folder, "tokenizer-partial")
    assert "ids up to 258; the embedding has 1024 rows" in text_of(finding)


@pytest.mark.parametrize("value", [320, -1, "2", 2.5, [2, 320], True])
def test_an_end_outside_the_vocabulary_is_an_error(value, toy):
    write(toy, GENERATION, eos_token_id=value)
    finding = finding_of(toy, "token-id-outside")
    assert (finding.level, "0 to 319 fits" in finding.title) == ("error", True)
    assert f"{GENERATION}: eos_token_id" in text_of(finding)


def test_a_padding_outside_the_vocabulary_is_a_warning_and_minus_one_is_none(toy):
    write(toy, "config.json", pad_token_id=-1)
    assert alarms(read_checkpoint(toy)) == []
    write(toy, "config.json", pad_token_id=512)
    assert finding_of(toy, "token-id-outside").level == "warning"


def test_ends_that_differ_are_named_with_the_change(toy):
    write(toy, GENERATION, eos_token_id=[5, 7])
    finding = finding_of(toy, "eos-differs")
    assert "</s>, 2" in text_of(finding)
    assert '+  "eos_token_id": [2, 5, 7]' in finding.do
    write(toy, GENERATION, eos_token_id=[2, 7])
    write(toy, "config.json", eos_token_id=5)
    assert "config.json: eos_token_id [5]" in text_of(finding_of(toy, "eos-contradicts"))


def test_an_end_that_is_no_id_is_not_copied_into_a_change(toy):
    write(toy, GENERATION, eos_token_id="a" * 100_000)
    assert len(text_of(finding_of(toy, "eos-differs"))) < 500
    assert len(finding_of(toy, "eos-differs").do) < 500


def test_a_model_without_any_end_is_a_warning(toy):
    write(toy, SETTINGS, eos_token=None)
    write(toy, "config.json", eos_token_id=None)
    write(toy, GENERATION, eos_token_id=None)
    assert finding_of(toy, "eos-missing").level == "warning"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -1),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", 2.5),
        ("top_k", float("inf")),
        ("min_p", "x"),
        ("repetition_penalty", 0),
    ],
)
def test_sampling_values_that_engines_refuse_are_named(key, value, toy):
    write(toy, GENERATION, **{key: value})
    assert f"{GENERATION}: {key} " in text_of(finding_of(toy, "generation-values"))


@pytest.mark.parametrize(
    ("template", "id", "text"),
    [
        ("", "template-broken", "it is empty"),
        ("{% for m in messages %}", "template-broken", "TemplateSyntaxError"),
        ("{{ messages[0].content | no_such }}", "template-broken", "no_such"),
        ("{{ messages[7].content.x }}", "template-broken", "UndefinedError"),
        ("{% for i in range(99999999999) %}x{% endfor %}", "template-broken", ""),
        ("{{ raise_exception('no users here') }}", "template-refuses", "no users here"),
        ("<s>assistant:", "template-loses-text", "of the message is not in"),
    ],
)
def test_a_template_that_writes_no_conversation_is_named(template, id, text, toy):
    (toy / JINJA).write_text(template)
    finding = finding_of(toy, id)
    assert f"{JINJA} " in text_of(finding)
    assert text in text_of(finding)


def test_named_templates_are_judged_by_their_syntax_alone(toy):
    (toy / JINJA).unlink()
    rows = [("default", TEMPLATE), ("rag", "{% for d in documents %}{{ d.x.y }}{% endfor %}")]
    write(toy, SETTINGS, chat_template=[{"name": n, "template": t} for n, t in rows])
    assert alarms(read_checkpoint(toy)) == []
    write(toy, SETTINGS, chat_template=[{"name": "rag", "template": "{% for"}])
    assert f"{SETTINGS}: rag" in text_of(finding_of(toy, "template-broken"))


def test_two_templates_that_differ_are_named_and_equal_ones_not(toy):
    write(toy, SETTINGS, chat_template=TEMPLATE)
    assert alarms(read_checkpoint(toy)) == []
    write(toy, SETTINGS, chat_template=TEMPLATE + "x")
    assert "Transformers takes chat_template.jinja" in text_of(finding_of(toy, "template-twice"))


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"x" * (2**20 + 1)])
def test_a_template_that_is_no_text_is_named(data, toy):
    (toy / JINJA).write_bytes(data)
    assert JINJA in text_of(finding_of(toy, "companion-damaged"))


def test_a_vocabulary_without_tokenizer_json_is_judged_too(toy):
    vocabulary = read_json(toy / TOKENIZER)["model"]["vocab"]
    (toy / TOKENIZER).unlink()
    (toy / "merges.txt").write_text("")
    (toy / "vocab.json").write_text(json.dumps(vocabulary | {"zzz": 320}))
    assert 'vocab.json: "zzz" id 320' in text_of(finding_of(toy, "tokenizer-beyond-embedding"))
    (toy / "vocab.json").write_text(json.dumps(vocabulary))
    (toy / "added_tokens.json").write_text(json.dumps({"<x>": 321}))
    assert 'vocab.json: "<x>" id 321' in text_of(finding_of(toy, "tokenizer-beyond-embedding"))


def test_a_huge_tokenizer_is_refused_by_its_size_before_it_is_read(toy):
    with (toy / TOKENIZER).open("r+b") as file:
        file.truncate(10**12)
    start = time.monotonic()
    assert "bytes; at most" in text_of(finding_of(toy, "companion-damaged"))
    assert time.monotonic() - start < 10
