"""Checkpoints have the names of their texts; where those are is known on this machine only."""

import pytest

from salient.core.text_places import locate_texts, remember_texts, texts_label

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("builtin", "builtin"),
        ("wikitext2", "wikitext2"),
        ("org/set:train", "org/set:train"),
        ("/home/me/texts/mine.jsonl", "mine.jsonl"),
        ("~/texts/mine", "mine"),
        ("./mine", "mine"),
        ("texts/mine.csv", "mine.csv"),
        (r"C:\\me\\mine.txt", "mine.txt"),
    ],
)
def test_a_label_has_no_folder(name, label):
    assert texts_label(name) == label


def test_a_file_without_a_suffix_is_known_as_a_file(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "mine").write_text("text")
    monkeypatch.chdir(tmp_path)
    assert texts_label("inner/mine") == "mine"


def test_texts_of_a_run_are_located_on_this_machine(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("text")
    assert locate_texts("mine.txt", DIGEST) is None
    remember_texts(str(path), DIGEST)
    assert locate_texts("mine.txt", DIGEST) == str(path)
    path.unlink()
    assert locate_texts("mine.txt", DIGEST) is None
    assert locate_texts("builtin", DIGEST) == "builtin"


@pytest.mark.parametrize("digest", ["../../secret", "", "0" * 65, "x\0" * 999])
def test_a_digest_of_a_foreign_file_opens_no_path(digest):
    assert locate_texts("none.txt", digest) is None
