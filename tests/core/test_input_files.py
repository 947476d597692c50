"""Foreign files: regular files alone are opened, within bounds, and links stay in their folder."""

import json
import os
import time

import pytest

from helpers.hostile_folders import place
from salient.core import model_files
from salient.core.errors import ModelError
from salient.core.input_files import (
    DEEPEST,
    UnfitFile,
    check_folder,
    open_input,
    parse_json,
    read_input,
)
from salient.core.model_files import (
    INDEX,
    MOST_IN_A_FILE,
    SINGLE,
    read_header,
    read_index,
    read_json,
)

IRREGULAR = {
    "fifo": r"is a pipe \(FIFO\), not a regular file",
    "socket": "is a socket, not a regular file",
    "folder": "is a folder, not a regular file",
    "/dev/zero": "is a device, not a regular file",
    "/proc/self/environ": "is a file of the system, not a regular file",
    "/proc/kmsg": "is a file of the system, not a regular file",
}
each_irregular = pytest.mark.parametrize("kind", [k for k in IRREGULAR if k != "/proc/kmsg"])


@each_irregular
def test_no_file_but_a_regular_one_is_opened(tmp_path, kind):
    place(tmp_path / "file", kind)
    start = time.monotonic()
    for read in (open_input, lambda path: read_input(path, 100)):
        with pytest.raises(UnfitFile, match=IRREGULAR[kind]):
            read(tmp_path / "file")
    assert time.monotonic() - start < 1


@each_irregular
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", SINGLE, "chat_template.jinja"])
def test_a_folder_with_such_a_file_is_refused_by_name(tmp_path, kind, name):
    place(tmp_path / name, kind)
    message = "link out of the folder" if kind.startswith("/") else IRREGULAR[kind]
    with pytest.raises(ModelError, match=f"{name} in .* {message}"):
        check_folder(tmp_path)
    if name.endswith(".json"):
        with pytest.raises(ModelError, match=IRREGULAR[kind]):
            read_json(tmp_path / name)
    else:
        with pytest.raises(ModelError, match=f"{name} in .*{IRREGULAR[kind]}"):
            read_header(tmp_path / name)


def test_links_lead_into_the_folder_or_the_cache_of_the_hub(tmp_path):
    folder = tmp_path / "models--org--name" / "snapshots" / "1"
    blobs = tmp_path / "models--org--name" / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for path in (blobs / "abc", folder / "real.json"):
        path.write_text("{}")
    (folder / "config.json").symlink_to("../../blobs/abc")
    (folder / "tokenizer.json").symlink_to("real.json")
    check_folder(folder)
    (tmp_path / "outside.json").write_text("{}")
    for target in (tmp_path / "outside.json", "absent.json", "generation_config.json"):
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / "generation_config.json").symlink_to(target)
        with pytest.raises(ModelError, match=r"is a link (out of the folder|to no file), which"):
            check_folder(folder)


def test_a_folder_of_templates_is_no_link(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "additional_chat_templates").symlink_to("/etc")
    with pytest.raises(ModelError, match=r"additional_chat_templates in .* is a link out of the"):
        check_folder(tmp_path)


def test_a_folder_that_is_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to("real")
    check_folder(tmp_path / "link")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", INDEX])
def test_a_file_too_large_for_its_kind_is_refused_unread(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**34)
    with pytest.raises(ModelError, match=f"{name} in .* has 17,179,869,184 bytes; a file of this"):
        check_folder(tmp_path)
    with pytest.raises(ModelError, match=r"has 17,179,869,184 bytes; at most .* fit"):
        read_json(tmp_path / name)


@pytest.mark.parametrize("depth", [DEEPEST + 1, 900, 100_000])
def test_json_too_deep_is_refused(depth):
    parse_json("[" * (DEEPEST - 1) + "]" * (DEEPEST - 1))
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        with pytest.raises(ValueError, match=f"more than {DEEPEST} lists and objects in each"):
            parse_json(text)


def test_half_of_a_surrogate_pair_is_no_text():
    assert parse_json(r'["\ud83d\ude00", "\\ud800"]') == ["😀", r"\ud800"]
    for text in (r'"\ud800"', r'{"a": {"\uDFFF": 1}}'):
        with pytest.raises(ValueError, match="half of a surrogate pair"):
            parse_json(text)


def header_of(path, rows):
    text = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    return path


ROW = {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a" * 3000: ROW}, "a tensor's name has 3000 letters: 'aaa"),
        ({"a": ROW | {"shape": [1] * 1000}}, "'a' has 1000 axes"),
        ({"a": ROW | {"dtype": {"b": 1}}}, "'a' has 1 axes of type"),
        ({"\ud800": ROW}, "half of a surrogate pair"),
        (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "lists and objects in each other"),
        (b'{"data_offsets"' * (MOST_IN_A_FILE + 1), f"names {MOST_IN_A_FILE + 1} tensors; at most"),
        ([ROW], r"cannot be read \("),
    ],
)
def test_headers_out_of_bounds_are_refused(tmp_path, rows, message):
    with pytest.raises(ModelError, match=f"{SINGLE} in .*{message}"):
        read_header(header_of(tmp_path / SINGLE, rows))


def test_an_index_of_too_many_tensors_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(model_files, "MOST_TENSORS", 100)
    files = {str(number): SINGLE for number in range(101)}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": files}))
    with pytest.raises(ModelError, match="names 101 tensors; at most 100 fit"):
        read_index(tmp_path)


def test_a_pipe_that_is_put_in_place_of_a_file_does_not_block(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "file")
    monkeypatch.setattr("salient.core.input_files.irregular", lambda path: "")
    with pytest.raises(UnfitFile):
        open_input(tmp_path / "file")
