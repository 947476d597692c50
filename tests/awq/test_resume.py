"""Runs that were cut short, or are given again: nothing is lost, nothing is mixed."""

import json
import os
import random
import re
import signal
import time

import pytest

from helpers.commands import Command
from helpers.runs import contents, run
from helpers.toy_models import save, tiny_model, toy_folder, toy_text
from salient.core.errors import CheckpointError, ModelError, ResumeMismatch
from salient.core.progress import Progress


def test_a_second_run_writes_the_same_bytes(toy, text, tmp_path):
    for name in ("one", "two"):
        run(toy, tmp_path / name / "out", text)
    assert contents(tmp_path / "one/out") == contents(tmp_path / "two/out")


def test_a_run_killed_at_any_moment_goes_on_and_ends_byte_equal(tmp_path, text):
    model = toy_folder(tmp_path / "model", num_hidden_layers=6)
    run(model, tmp_path / "whole/out", text)
    target = tmp_path / "killed/out"
    command = ["quantize", model, "-o", target, "--calibration", text, "--json"]
    command += ["--scheme", "w4-g32", "--samples", "6", "--sequence-length", "64"]
    command += ["--effort", "fast", "--calibration-mix", "1"]
    delays = random.Random(0)
    partial = target.with_name("out.partial")
    for _ in range(5):
        with Command(*command, OMP_NUM_THREADS="1") as process:
            while not (partial / "journal.jsonl").exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(delays.random() * 0.25)
            process.send_signal(signal.SIGKILL)
    with Command(*command, OMP_NUM_THREADS="1") as process:
        code, _, errors = process.communicate()
    assert code == 0, errors
    assert contents(target) == contents(tmp_path / "whole/out")
    assert not partial.exists()


@pytest.mark.parametrize(
    ("changes", "field", "before", "now"),
    [
        ({"samples": 5}, "samples", "6", "5"),
        ({"scheme": "w4-g32-sym"}, "scheme", "'w4-g32'", "'w4-g32-sym'"),
        ({"skip": ["down_proj"]}, "skip", "[]", "['down_proj']"),
        ({"format": "compressed-tensors"}, "format", "'awq'", "'compressed-tensors'"),
        ({"sequence_length": 80}, "sequence_length", "64", "80"),
        ({"dtype": "bfloat16"}, "dtype", "'float16'", "'bfloat16'"),
    ],
)
def test_an_unfinished_run_refuses_other_arguments_by_name(
    changes, field, before, now, toy, text, tmp_path
):
    interrupted(toy, tmp_path / "out", text)
    message = (
        f"has {field} = {before} there, {now} here. Pass the same arguments to resume, --fresh"
    )
    with pytest.raises(ResumeMismatch, match=re.escape(message)):
        run(toy, tmp_path / "out", text, **changes)
    run(toy, tmp_path / "out", text, **changes, fresh=True)
    assert (tmp_path / "out" / "salient.json").exists()


def test_an_unfinished_run_refuses_a_changed_text(toy, tmp_path):
    text = toy_text(tmp_path)
    interrupted(toy, tmp_path / "out", text)
    text.write_text("another beginning " + text.read_text())
    with pytest.raises(ResumeMismatch, match=r"has calibration = '[0-9a-f]{64}' there, '"):
        run(toy, tmp_path / "out", text)


class Stop(Exception):
    pass


def interrupted(model, out, text, **changes):
    def stop(done, total, doing, note):
        if done == 1 and "proving" in doing:  # the first block is in the journal
            raise Stop

    with pytest.raises(Stop):
        run(model, out, text, progress=Progress(stop), **changes)
    assert not out.exists()


def test_a_changed_model_is_refused_on_resume(tmp_path, text):
    model = toy_folder(tmp_path / "model")
    interrupted(model, tmp_path / "out", text)
    save(tiny_model(seed=7), model)
    message = (
        r"has another source: model\.safetensors differs .*, in 'model\.layers\.0\..* and \d+ more"
    )
    with pytest.raises(ResumeMismatch, match=message):
        run(model, tmp_path / "out", text)


def test_a_finished_run_started_again_only_reports(toy, text, tmp_path):
    run(toy, tmp_path / "out", text)
    before = contents(tmp_path / "out")
    assert run(toy, tmp_path / "out", text).data["resumed"]
    assert contents(tmp_path / "out") == before


def test_a_folder_that_is_not_this_runs_is_never_replaced(toy, text, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    for fresh in (False, True):
        with pytest.raises(
            CheckpointError, match="was not written by salient, so it is not replaced"
        ):
            run(toy, out, text, fresh=fresh)
    assert (out / "mine.txt").read_text() == "keep me"


def test_a_finished_checkpoint_of_another_run_is_replaced_only_by_fresh(toy, text, tmp_path):
    run(toy, tmp_path / "out", text)
    with pytest.raises(CheckpointError, match="scheme = 'w4-g32' there, 'w4-g32-sym' here"):
        run(toy, tmp_path / "out", text, scheme="w4-g32-sym")
    run(toy, tmp_path / "out", text, scheme="w4-g32-sym", fresh=True)


def test_the_same_texts_in_another_folder_are_the_same_run(toy, text, tmp_path):
    interrupted(toy, tmp_path / "out", text)
    moved = tmp_path / "elsewhere" / text.name
    moved.parent.mkdir()
    moved.write_bytes(text.read_bytes())
    run(toy, tmp_path / "out", moved)
    evidence = tmp_path / "out" / "salient.json"
    assert str(tmp_path) not in evidence.read_text()
    assert str(text.parent) not in evidence.read_text()
    assert run(toy, tmp_path / "out", moved).data["resumed"]


def flip(path, offset=-1):
    """Flip one bit of a file, and set its time back."""
    content, status = bytearray(path.read_bytes()), path.stat()
    content[offset] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json", "README.md"])
def test_a_flipped_bit_of_the_source_is_named_on_resume(name, tmp_path, text):
    model = toy_folder(tmp_path / "model")
    (model / "README.md").write_text("# A model")
    interrupted(model, tmp_path / "out", text)
    flip(model / name, -4)
    message = f"has another source: {name} differs .*Restore the source to resume, use --fresh"
    with pytest.raises(ResumeMismatch, match=message):
        run(model, tmp_path / "out", text)


def test_a_flipped_bit_of_the_source_is_another_run_than_the_finished_one(tmp_path, text):
    model = toy_folder(tmp_path / "model")
    run(model, tmp_path / "out", text)
    flip(model / "model.safetensors")
    message = r"is another run's: another source: model\.safetensors differs .* or --fresh"
    with pytest.raises(CheckpointError, match=message):
        run(model, tmp_path / "out", text)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_finished_checkpoint_with_a_flipped_bit_is_not_finished(name, toy, text, tmp_path):
    run(toy, tmp_path / "out", text)
    flip(tmp_path / "out" / name, -3)
    message = f"out is finished, but its {name} has changed since. Set another output with -o, or"
    with pytest.raises(CheckpointError, match=message):
        run(toy, tmp_path / "out", text)
    run(toy, tmp_path / "out", text, fresh=True)
    assert run(toy, tmp_path / "out", text).data["resumed"]


def test_a_card_that_validate_updates_stays_finished(toy, text, tmp_path):
    run(toy, tmp_path / "out", text)
    (tmp_path / "out" / "README.md").write_text("# Figures")
    assert run(toy, tmp_path / "out", text).data["resumed"]


def test_a_checkpoint_of_an_older_version_is_not_taken_for_finished(toy, text, tmp_path):
    run(toy, tmp_path / "out", text)
    path = tmp_path / "out" / "salient.json"
    older = json.loads(path.read_text())
    del older["files"], older["seal"], older["run"]["source_files"]
    path.write_text(json.dumps(older))
    message = r"no digests of its source \(it is of an older version of Salient\)\. Set another"
    with pytest.raises(CheckpointError, match=message):
        run(toy, tmp_path / "out", text)


def when(action, change):
    """Progress that calls `change` once, when the second block is at `action`."""
    calls = [change]

    def watch(done, total, doing, note):
        if done == 1 and action in doing and calls:
            calls.pop()()

    return Progress(watch)


@pytest.mark.parametrize("action", ["proving", "search", "judging"])
def test_a_source_that_changes_during_a_run_is_named_and_nothing_is_published(
    action, text, tmp_path
):
    model = toy_folder(tmp_path / "model")
    weights = model / "model.safetensors"
    message = r"model/model\.safetensors changed while it was quantized.*Nothing is published"
    with pytest.raises(ModelError, match=message):
        run(model, tmp_path / "out", text, progress=when(action, lambda: flip(weights)))
    assert not (tmp_path / "out").exists()
    flip(weights)  # back
    assert run(model, tmp_path / "out", text).data["resumed"]
    run(model, tmp_path / "whole/out", text)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole/out")


def test_a_tokenizer_that_changes_during_a_run_is_named(text, tmp_path):
    model = toy_folder(tmp_path / "model")
    change = when("judging", lambda: flip(model / "tokenizer.json", -5))
    with pytest.raises(ModelError, match=r"tokenizer\.json changed while it was quantized"):
        run(model, tmp_path / "out", text, progress=change)


def test_a_source_whose_times_change_is_the_same_source(text, tmp_path):
    model = toy_folder(tmp_path / "model")
    run(model, tmp_path / "out", text, progress=when("search", (model / "config.json").touch))


def test_a_damaged_piece_is_named_and_written_again(toy, text, tmp_path):
    run(toy, tmp_path / "whole/out", text)
    interrupted(toy, tmp_path / "out", text)
    flip(tmp_path / "out.partial" / "block-00000.safetensors")
    warnings = run(toy, tmp_path / "out", text).data["warnings"]
    message = "block-00000.safetensors has changed: no block stays, all after it is written again"
    assert any(message in warning for warning in warnings)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole/out")


def test_a_piece_that_is_damaged_during_its_run_is_named_and_not_published(toy, text, tmp_path):
    piece = tmp_path / "out.partial" / "block-00000.safetensors"
    with pytest.raises(
        CheckpointError, match=r"block-00000\.safetensors has changed since this run"
    ):
        run(toy, tmp_path / "out", text, progress=when("judging", lambda: flip(piece)))
    assert not (tmp_path / "out").exists()
    assert run(toy, tmp_path / "out", text).data["warnings"][-1].startswith("In ")
