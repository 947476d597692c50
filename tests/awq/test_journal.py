"""The journal: a block is finished when its whole line exists; one run at a time writes it."""

import json
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from helpers.evidence_files import sample_header
from helpers.runs import resume_report
from salient.awq.journal import NAME, Journal, JournalLine
from salient.core.content_digest import file_digest
from salient.core.errors import CheckpointError, ResumeMismatch
from salient.core.evidence import BlockEvidence
from salient.core.records import to_json

HEADER = sample_header(
    scheme="w4-g128",
    skip=("lm_head",),
    samples=128,
    sequence_length=512,
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


def line_of(folder, block):
    """The line of a block, whose file it writes."""
    path = folder / f"{block.block}.safetensors"
    path.write_text(block.block)
    return JournalLine(block, {path.name: file_digest(path)}, {"tensor": "0" * 64})


def written(folder, *blocks, header=HEADER):
    journal = Journal(folder, header, fresh=False)
    for block in blocks:
        journal.append(line_of(folder, block))
    journal.close()
    return folder / NAME


def opened(folder, header=HEADER, *, fresh=False):
    """What a run that starts now finds done."""
    journal = Journal(folder, header, fresh=fresh)
    journal.close()
    return journal.blocks


def test_a_new_run_has_nothing_done_and_a_header(tmp_path):
    assert opened(tmp_path / "deep" / "run") == []
    assert json.loads((tmp_path / "deep" / "run" / NAME).read_text())["run"] == to_json(HEADER)


def test_a_block_is_done_when_its_line_is_there(tmp_path):
    path = written(tmp_path, *BLOCKS)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["run"] == to_json(HEADER)
    assert [line["evidence"] for line in lines[1:]] == to_json(BLOCKS)
    assert opened(tmp_path) == BLOCKS


def test_a_line_is_on_disk_before_the_next_block_starts(tmp_path):
    journal = Journal(tmp_path, HEADER, fresh=False)
    journal.append(line_of(tmp_path, BLOCKS[0]))
    last = (tmp_path / NAME).read_text().splitlines()[-1]
    assert json.loads(last)["evidence"] == to_json(BLOCKS[0])
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


def test_a_last_line_cut_short_is_dropped_wherever_it_is_cut(tmp_path):
    path = written(tmp_path, *BLOCKS)
    whole = path.read_bytes()
    *_, first, last = whole.splitlines(keepends=True)
    for cut in range(1, len(last), 5):
        path.write_bytes(whole[:-cut])
        assert opened(tmp_path) == BLOCKS[:1]
        assert path.read_bytes().endswith(first)


def test_a_run_goes_on_cleanly_after_a_line_cut_short(tmp_path):
    path = written(tmp_path, *BLOCKS)
    path.write_bytes(path.read_bytes()[:-7])
    written(tmp_path, BLOCKS[1])
    assert opened(tmp_path) == BLOCKS


def test_a_header_cut_short_is_a_new_run(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-7])
    assert opened(tmp_path) == []
    assert json.loads(path.read_text())["run"] == to_json(HEADER)


def test_nothing_after_a_damaged_line_is_believed(tmp_path):
    path = written(tmp_path, *BLOCKS)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "{damaged\n" + lines[2])
    assert opened(tmp_path) == []


def noticed(folder):
    return resume_report(folder, HEADER)


def test_any_flipped_bit_of_the_journal_is_noticed_by_name(tmp_path):
    path, chance = written(tmp_path, *BLOCKS), random.Random(0)
    whole = path.read_bytes()
    for _ in range(300):
        changed = bytearray(whole)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        assert NAME in noticed(tmp_path)


def test_a_line_that_is_removed_moved_or_repeated_is_noticed(tmp_path):
    path = written(tmp_path, *BLOCKS)
    header, first, second = path.read_text().splitlines(keepends=True)
    for lines, number in (([header, second], 2), ([header, second, first], 2)):
        path.write_text("".join(lines))
        assert f"Line {number} of {path} is not as it was written: no block stays" in noticed(
            tmp_path
        )
    path.write_text(header + first + first)
    assert "Line 3 of" in noticed(tmp_path)
    assert opened(tmp_path) == BLOCKS[:1]


def test_a_damaged_file_of_a_block_is_named_and_its_line_dropped(tmp_path):
    written(tmp_path, *BLOCKS)
    (tmp_path / "blocks.1.safetensors").write_text("blocks.2")
    message = "blocks.1.safetensors has changed: the first 1 blocks stay, all after it is written"
    assert message in noticed(tmp_path)
    assert opened(tmp_path) == BLOCKS[:1]
    (tmp_path / "blocks.0.safetensors").unlink()
    assert "blocks.0.safetensors is missing: no block stays" in noticed(tmp_path)


def test_the_journal_of_an_older_version_is_refused(tmp_path):
    (tmp_path / NAME).write_text(json.dumps(to_json(HEADER)) + "\n")
    message = "was begun by an older version of Salient, which recorded no digests, so it cannot be"
    assert message in noticed(tmp_path)
    assert opened(tmp_path, fresh=True) == []


def test_another_source_names_its_file(tmp_path):
    header = replace(HEADER, source_files={"a.safetensors": "0" * 64, "config.json": "1" * 64})
    written(tmp_path, *BLOCKS, header=header)
    other = replace(header, source_files={"a.safetensors": "2" * 64, "config.json": "1" * 64})
    message = (
        "has another source: a.safetensors differs (SHA-256 000000000000 there, SHA-256 "
        "222222222222 here)."
    )
    with pytest.raises(ResumeMismatch, match=re.escape(message)):
        Journal(tmp_path, other, fresh=False)
    fewer = replace(header, source_files={"config.json": "1" * 64, "tokenizer.json": "2" * 64})
    message = "a.safetensors and 1 more files differ (SHA-256 000000000000 there, absent here)"
    with pytest.raises(ResumeMismatch, match=re.escape(message)):
        Journal(tmp_path, fewer, fresh=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": "w4-g64"}, "scheme = 'w4-g128' there, 'w4-g64' here"),
        ({"samples": 64}, "samples = 128 there, 64 here"),
        ({"skip": ()}, "skip = ['lm_head'] there, [] here"),
        ({"adapter": "lora"}, "adapter = None there, 'lora' here"),
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
    assert json.loads((tmp_path / NAME).read_text())["run"]["scheme"] == "w4-g32"


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
