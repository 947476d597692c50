"""The journal: a block is finished when its whole line exists; one run at a time writes it."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from salient.awq.journal import NAME, Journal
from salient.core.errors import CheckpointError, ResumeMismatch
from salient.core.evidence import BlockEvidence, RunHeader
from salient.core.records import to_json

HEADER = RunHeader(
    salient="0.1.0",
    model="digest",
    adapter=None,
    scheme="w4-g128",
    format="awq",
    dtype="float16",
    skip=("lm_head",),
    calibration_texts="builtin",
    samples=128,
    sequence_length=512,
    calibration="digest",
    computed_in="float32 on cpu",
)
BLOCKS = [
    BlockEvidence(
        name, 0.25, 0.125, fell_back=False, left_at_16_bits={}, borrowed_statistics={}, groups=()
    )
    for name in ("blocks.0", "blocks.1")
]

# holds the lock as another process of ours would, without the seconds that importing torch takes
HOLDER = """
import fcntl, sys
handle = open(sys.argv[1], "w")
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def written(folder, *entries, header=HEADER):
    journal = Journal(folder, header, fresh=False)
    for entry in entries:
        journal.finish_block(entry)
    journal.close()
    return folder / NAME


def opened(folder, header=HEADER, *, fresh=False):
    """What a run that starts now finds done."""
    journal = Journal(folder, header, fresh=fresh)
    journal.close()
    return journal.blocks


def test_a_new_run_has_nothing_done_and_a_header(tmp_path):
    assert opened(tmp_path / "deep" / "run") == []
    assert json.loads((tmp_path / "deep" / "run" / NAME).read_text()) == to_json(HEADER)


def test_a_block_is_done_when_its_line_is_there(tmp_path):
    path = written(tmp_path, *BLOCKS)
    assert [json.loads(line) for line in path.read_text().splitlines()] == to_json(
        [HEADER, *BLOCKS]
    )
    assert opened(tmp_path) == BLOCKS


def test_a_line_is_on_disk_before_the_next_block_starts(tmp_path):
    journal = Journal(tmp_path, HEADER, fresh=False)
    journal.finish_block(BLOCKS[0])
    assert json.loads((tmp_path / NAME).read_text().splitlines()[-1]) == to_json(BLOCKS[0])
    assert journal.blocks == BLOCKS[:1]
    journal.close()


def test_a_resumed_run_adds_its_blocks_after_the_others(tmp_path):
    written(tmp_path, BLOCKS[0])
    written(tmp_path, BLOCKS[1])
    assert opened(tmp_path) == BLOCKS


def test_opening_changes_no_byte_of_a_whole_journal(tmp_path):
    path = written(tmp_path, *BLOCKS)
    before = path.read_bytes()
    opened(tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", range(1, len(json.dumps(to_json(BLOCKS[1]))) + 1, 5))
def test_a_last_line_cut_short_is_dropped_wherever_it_is_cut(cut, tmp_path):
    path = written(tmp_path, *BLOCKS)
    path.write_bytes(path.read_bytes()[:-cut])
    assert opened(tmp_path) == BLOCKS[:1]
    assert path.read_text().endswith(json.dumps(to_json(BLOCKS[0])) + "\n")


def test_a_run_goes_on_cleanly_after_a_line_cut_short(tmp_path):
    path = written(tmp_path, *BLOCKS)
    path.write_bytes(path.read_bytes()[:-7])
    written(tmp_path, BLOCKS[1])
    assert opened(tmp_path) == BLOCKS


def test_a_header_cut_short_is_a_new_run(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-7])
    assert opened(tmp_path) == []
    assert json.loads(path.read_text()) == to_json(HEADER)


def test_nothing_after_a_damaged_line_is_believed(tmp_path):
    path = written(tmp_path, *BLOCKS)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "{damaged\n" + lines[2])
    assert opened(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": "w4-g64"}, "scheme = 'w4-g128', this one has 'w4-g64'"),
        ({"samples": 64}, "samples = 128, this one has 64"),
        ({"skip": ()}, "skip = ['lm_head'], this one has []"),
        ({"adapter": "lora"}, "adapter = None, this one has 'lora'"),
    ],
    ids=["scheme", "samples", "skip", "adapter"],
)
def test_another_header_names_the_field_and_both_values(change, message, tmp_path):
    written(tmp_path, *BLOCKS)
    remedy = "Pass the same arguments to resume, --fresh to start over, or another -o"
    with pytest.raises(ResumeMismatch, match=rf"{re.escape(message)}\. {remedy}"):
        Journal(tmp_path, replace(HEADER, **change), fresh=False)


def test_another_header_leaves_the_unfinished_run_as_it_is(tmp_path):
    path = written(tmp_path, *BLOCKS)
    before = path.read_bytes()
    with pytest.raises(ResumeMismatch, match="samples"):
        Journal(tmp_path, replace(HEADER, samples=1), fresh=False)
    assert path.read_bytes() == before
    assert opened(tmp_path) == BLOCKS  # and the lock is free again


def test_a_fresh_run_clears_what_was_there_and_takes_any_header(tmp_path):
    written(tmp_path, *BLOCKS)
    (tmp_path / "block-0.safetensors").write_bytes(b"0")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"0")
    assert opened(tmp_path, replace(HEADER, scheme="w4-g32"), fresh=True) == []
    assert {p.name for p in tmp_path.iterdir()} == {NAME, ".lock"}
    assert json.loads((tmp_path / NAME).read_text())["scheme"] == "w4-g32"


@pytest.fixture
def other_process(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLDER, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_second_process_is_locked_out_and_changes_nothing(fresh, tmp_path, other_process):
    (tmp_path / NAME).write_text("theirs")
    message = rf"Another run is writing to {tmp_path}\. Wait for it, stop it, or set another output"
    with pytest.raises(CheckpointError, match=message):
        Journal(tmp_path, HEADER, fresh=fresh)
    assert (tmp_path / NAME).read_text() == "theirs"


def test_a_second_run_of_the_same_process_is_locked_out_too(tmp_path):
    journal = Journal(tmp_path, HEADER, fresh=False)
    with pytest.raises(CheckpointError, match="Another run is writing"):
        Journal(tmp_path, HEADER, fresh=True)
    journal.close()
    assert opened(tmp_path) == []


def test_a_process_that_was_killed_lets_go(tmp_path, other_process):
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    assert opened(tmp_path) == []


def test_a_header_with_the_path_of_its_texts_is_the_same_run(tmp_path):
    """Older runs wrote the path as it was typed."""
    header = replace(HEADER, calibration_texts="mine.jsonl")
    path = written(tmp_path / "run", *BLOCKS, header=header)
    path.write_text(path.read_text().replace("mine.jsonl", "/home/me/mine.jsonl"))
    assert opened(tmp_path / "run", header) == BLOCKS
    assert "/home/me" not in path.read_text()
