"""A bit that changes anywhere between two steps is noticed, and the file is named.

`benchmarks/changed_bits.py` does the same with whole commands.
"""

import random
import shutil
from pathlib import Path

import pytest

from helpers.runs import resume_report, run
from salient.awq.journal import read_journal
from salient.core.content_digest import changed_files
from salient.core.evidence import find_changed, read_evidence
from salient.core.progress import Progress

PLACES = 500


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def folders(toy, text, tmp_path_factory) -> dict[str, Path]:
    """A source, the unfinished run of it, and its finished checkpoint."""
    home = tmp_path_factory.mktemp("bits")

    def stop(done, total, doing, note):
        if doing.startswith("measuring"):  # all blocks are in the journal
            raise Stop

    run(toy, home / "out", text)
    with pytest.raises(Stop):
        run(toy, home / "unfinished", text, progress=Progress(stop))
    source = shutil.copytree(toy, home / "source")
    return {"source": source, "unfinished": home / "unfinished.partial", "out": home / "out"}


def test_a_bit_that_changes_anywhere_is_noticed_by_name(folders):
    evidence = read_evidence(folders["out"])
    assert evidence is not None
    unfinished = read_journal(folders["unfinished"])
    assert unfinished is not None
    notices = {
        "source": lambda: str(changed_files(folders["source"], evidence.source_files)),
        "unfinished": lambda: resume_report(folders["unfinished"], unfinished.run),
        "out": lambda: find_changed(folders["out"]).note,
    }
    assert {notice() for notice in notices.values()} == {"{}", ""}
    files = [
        (place, path)
        for place, folder in folders.items()
        for path in sorted(folder.iterdir())
        if path.name not in (".lock", "README.md")
    ]
    journal = folders["unfinished"] / "journal.jsonl"
    whole, chance = journal.read_bytes(), random.Random(0)
    for _ in range(PLACES):
        place, path = chance.choice(files)
        content = path.read_bytes()
        changed = bytearray(content)
        changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        assert path.name in notices[place]()
        path.write_bytes(content)
        journal.write_bytes(whole)
    assert {notice() for notice in notices.values()} == {"{}", ""}
