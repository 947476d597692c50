"""Where a run writes: names, empty folders, and outputs that cannot be written, before the work."""

import json
import os
import socket
from pathlib import Path

import pytest

from helpers.cli import invoke
from helpers.runs import contents, run
from salient import api
from salient.core.errors import CheckpointError
from salient.formats.output_folder import check_output, is_vacant, model_name, partial_folder


def test_a_model_is_called_like_its_folder_or_its_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "my model"
    (model / "sub").mkdir(parents=True)
    assert model_name(Path("my model")) == model_name(Path("my model/")) == "my model"
    monkeypatch.chdir(model / "sub")
    assert [model_name(Path(name)) for name in (".", "..", "../sub", "../..", "./")] == [
        *("sub", "my model", "sub", tmp_path.name, "sub")
    ]
    snapshot = tmp_path / "hub/models--org--a-name--x/snapshots/0123abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "link").symlink_to(snapshot)
    assert model_name(snapshot) == "x"
    assert model_name(tmp_path / "link") == "x"
    assert model_name(Path("/")) == "model"


@pytest.mark.parametrize("model", [".", "../model", "../model/", "../model/sub/.."])
def test_the_output_is_named_after_the_model_wherever_it_is_run(model, toy, text, tmp_path):
    folder = tmp_path / "model"
    folder.symlink_to(toy)
    options = ["--scheme", "w4-g32", "--samples", 6, "--sequence-length", 64]
    before = os.getcwd()
    os.chdir(folder)
    try:
        result = invoke(
            "quantize", model.replace("/sub/..", ""), "--calibration", text, "--dry-run", "--json",
            *options,
        )  # fmt: skip
    finally:
        os.chdir(before)
    name = Path(json.loads(result.stdout)["output"]).name
    assert name == ("model-awq-w4-g32" if "model" in model else f"{toy.name}-awq-w4-g32")


def test_every_path_option_knows_the_home_folder(toy, text, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run(toy, Path("~/out"), text)
    assert (tmp_path / "out/salient.json").exists()
    api.plan("~/out", adr="~/record.md", gpu="RTX 4090")
    assert (tmp_path / "record.md").exists()
    api.evaluate("~/out", reference=toy, text=[str(text)], samples=2, sequence_length=64,
                 report="~/report")  # fmt: skip
    assert (tmp_path / "report/report.html").exists()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(("mounted", "fresh"), [(False, True), (True, False)])
def test_an_empty_folder_is_written_into(mounted, fresh, toy, text, tmp_path, monkeypatch):
    reference = run(toy, tmp_path / "reference", text) and contents(tmp_path / "reference")
    out = tmp_path / "out"
    out.mkdir()
    if mounted:  # of a container: it can be neither removed nor renamed over
        monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == out)
        node = out.stat().st_ino
    run(toy, out, text, fresh=fresh)
    written = contents(out)
    assert written.keys() == reference.keys()
    assert written["model.safetensors"] == reference["model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "reference"]
    assert not mounted or out.stat().st_ino == node
    run(toy, out, text)  # finished: nothing to do
    run(toy, out, text, fresh=True)
    assert contents(out) == written


def test_a_link_to_a_folder_is_followed(toy, text, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    run(toy, tmp_path / "out", text)
    assert (tmp_path / "disk/salient.json").exists()
    assert (tmp_path / "out").is_symlink()


def dangling(place: Path) -> Path:
    place.symlink_to(place.with_name("nowhere"))
    return place


def file(place: Path) -> Path:
    place.write_text("")
    return place


def pipe(place: Path) -> Path:
    os.mkfifo(place)
    return place


def unix_socket(place: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(place))
    return place


BAD_PLACES = {
    "dangling link": (dangling, r"is a link to .*nowhere, which does not exist"),
    "file": (file, r"is a file, not a folder"),
    "pipe": (pipe, r"is a pipe, not a folder"),
    "socket": (unix_socket, r"is a socket, not a folder"),
    "device": (lambda _: Path("/dev/null"), r"is a device, not a folder"),
    "proc": (lambda _: Path("/proc/out"), r"/proc/out cannot be written \(.+\)"),
    "sys": (lambda _: Path("/sys/kernel/out"), r"cannot be written \(.+\)"),
    "within a file": (lambda p: file(p) / "out", r"cannot be written \(Not a directory\)"),
    "long name": (lambda p: p.with_name("x" * 250), r"cannot be written \(File name too long\)"),
    "long path": (lambda p: p / ("y/" * 3000), r"cannot be written \(File name too long\)"),
    "zero byte": (lambda p: Path(f"{p}\0"), r"cannot be written \(.*null"),
}


@pytest.mark.parametrize("kind", BAD_PLACES)
@pytest.mark.parametrize("dry_run", [False, True])
def test_an_output_that_cannot_be_written_is_named_before_the_work(
    kind, dry_run, toy, text, tmp_path, monkeypatch
):
    make, message = BAD_PLACES[kind]
    place = make(tmp_path / "out")
    monkeypatch.setattr("salient.awq.job.try_model", None)  # the work
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=rf"{message}.*\. Set another output with -o\.$"):
        run(toy, place, text, dry_run=dry_run)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_without_write_permission_is_named(toy, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(CheckpointError, match=r"out cannot be written \(Permission denied\)\. Set"):
        check_output(tmp_path / "out", toy)


def test_the_model_itself_is_never_replaced(text, tmp_path, toy):
    out = tmp_path / "out"
    run(toy, out, text)
    inner = out / "model"
    inner.mkdir()
    for path in toy.iterdir():
        (inner / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match=r"out holds the model .*model itself\. Set another"):
        run(inner, out, text, fresh=True)
    assert (inner / "config.json").exists()


def test_a_folder_with_a_file_is_not_vacant(tmp_path):
    assert is_vacant(tmp_path / "none")
    assert is_vacant(tmp_path)
    assert partial_folder(tmp_path / "none").name == "none.partial"
    (tmp_path / "own.txt").write_text("")
    assert not is_vacant(tmp_path)
