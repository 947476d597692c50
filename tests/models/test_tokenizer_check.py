"""A tokenizer is tried in a process with limits before this process loads it."""

import json
import random
import time

import pytest

from helpers.hostile_tokenizers import TOKENIZERS
from helpers.tokenizers import TOKENIZERS as GOOD
from helpers.toy_models import byte_tokenizer
from salient.core.errors import ModelError
from salient.models import tokenizer_check
from salient.models.tokenizer_check import check_tokenizer
from salient.models.tokens import encode, load_tokenizer

REFUSED = {
    "doubles": "has a normalizer that can make 100 letters of one",
    "doubles e": "has a normalizer that can make 81 letters of one",
    "between": "has a normalizer that can make",
    "prepends": "has a normalizer that can make",
    "replacement": "has a normalizer that can make",
    "decoder": "has a decoder that can make 1000 letters of one",
    "many steps": "has a normalizer of more than 256 steps",
    "pads": r"pads every text to \d+ tokens",
    "pads to a multiple": "pads every text to 1000000000 tokens",
    "post-processes": "has a post_processor that adds more than 4096 tokens",
    "ids": "has a token with the id 4000000002; at most 2147483647 fits",
    "far id": "has an added token with the id 4000000000",
    "long added": "has an added token of 5000000 letters",
    "backtracks": "fails on a plain text .*retry-limit",
    "strips": "fails on a plain text",
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_a_tokenizer_that_grows_or_hangs_is_refused(tmp_path, kind):
    byte_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text())
    TOKENIZERS[kind](document, random.Random(0))
    path.write_text(json.dumps(document))
    with pytest.raises(ModelError, match=f"tokenizer.json in .* {REFUSED[kind]}.*Fetch it from"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", list(GOOD))
def test_good_tokenizers_pass_and_are_tried_once(tmp_path, monkeypatch, name):
    GOOD[name]().save_pretrained(tmp_path)
    assert encode(load_tokenizer(tmp_path), "the cat", special=False)
    monkeypatch.setattr(tokenizer_check, "CHILD", tmp_path / "absent.py")
    check_tokenizer(tmp_path)


def test_a_process_that_a_limit_ends_is_a_refusal(tmp_path, monkeypatch):
    byte_tokenizer().save_pretrained(tmp_path)
    child = tmp_path / "child.py"
    child.write_text("import os; os.abort()")
    monkeypatch.setattr(tokenizer_check, "CHILD", child)
    monkeypatch.setattr(tokenizer_check, "_trials", {})
    with pytest.raises(ModelError, match="takes more time or memory than its size explains"):
        check_tokenizer(tmp_path)
    child.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(tokenizer_check, "PATIENCE_SECONDS", 1.0)
    start = time.monotonic()
    with pytest.raises(ModelError, match="does not load within 1 seconds"):
        check_tokenizer(tmp_path)
    assert time.monotonic() - start < 20


def test_a_tokenizer_in_another_folder_is_not_followed(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["fast_tokenizer_files"] = ["../tokenizer.1.0.json"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"names '\.\./tokenizer\.1\.0\.json' as a tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("chat_template.jinja", b"{{ messages \xf3 }}"), ("special_tokens_map.json", b"{")],
)
def test_a_damaged_file_next_to_the_tokenizer_is_named(name, content, tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name} is (no readable text|not readable JSON) \("):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("special_tokens_map.json", "eos_token"),
        ("special_tokens_map.json", "other"),
        ("tokenizer_config.json", "eos_token"),
    ],
)
def test_a_token_of_thousands_of_keys_is_refused_before_they_are_printed(
    name, key, tmp_path, capfd
):
    byte_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / name
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(settings | {key: {str(i): i for i in range(5000)}}))
    with pytest.raises(ModelError, match=f"{name} in .* has 5000 keys in its tokens"):
        load_tokenizer(tmp_path)
    assert "Ignored" not in "".join(capfd.readouterr())
