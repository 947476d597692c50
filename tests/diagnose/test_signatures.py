"""Signatures: each matches its own example with any prefix, and never plain English."""

import io
import json
import re
from itertools import islice

import pytest
import tomli

from salient.core.corpus import builtin
from salient.diagnose.finding import BAD, LEVELS, Finding
from salient.diagnose.log.line_prefix import read_line
from salient.diagnose.log.log_facts import LogFacts
from salient.diagnose.log.log_reader import read_stream
from salient.diagnose.log.signature import (
    FOLDER,
    SIGNATURES,
    SUBJECTS,
    Signature,
    read_signatures,
)
from salient.diagnose.steps import UNKNOWN_SERVER

PREFIXES = {
    "vLLM 0.32": "(Worker_TP1_EP1 pid=4711) WARNING 11-21 01:25:22 [auto_awq.py:325] {}\n",
    "vLLM 0.9": "ERROR 06-17 13:04:11 [core.py:396] {}\n",
    "vLLM 0.5": "WARNING 08-21 00:27:46 config.py:254] {}\n",
    "vLLM in colours": "\x1b[0;36m(EngineCore_DP0 pid=12)\x1b[0;0m INFO 10-23 15:14:56 [a.py:3] "
    "{}\r\n",
    "Ray": "\x1b[36m(RayWorkerWrapper pid=393, ip=10.0.0.2)\x1b[0m ERROR 02-11 01:02:03 b.py:7] "
    "{}\n",
    "SGLang": "[2025-08-08 03:35:19 TP0] {}\n",
    "docker compose": "vllm-1  | (APIServer pid=1) INFO 11-21 01:25:22 [a.py:1] {}\n",
    "Kubernetes": "2026-11-21T01:25:22.123456789Z stderr F ERROR 11-21 01:25:22 [a.py:1510] {}\n",
    "journald": "Nov 21 01:25:22 node-7 vllm[4711]: {}\n",
    "torchrun": "[rank3]: {}\n",
}
IDS = [row.id for row in SIGNATURES]


def findings(text: str) -> dict[str, Finding]:
    reading = read_stream(io.BytesIO(text.encode()), "a.log", size=None)
    return {finding.id: finding for finding in reading.findings}


def test_ids_are_unique():
    assert len(SIGNATURES) >= 500
    assert len(set(IDS)) == len(IDS)


def is_complete(row: Signature) -> bool:
    return (
        re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row.id) is not None
        and row.level in LEVELS
        and row.anchor in row.example
        and "\n" not in row.example
        and bool(row.do or row.level == "good")
        and set(row.companions) <= {*IDS, "concurrency"}
        # JSON writes these letters in another way, and a JSON log would hide them.
        and not set(row.anchor) & set('"\\\n')
    )


def test_all_rows_are_complete():
    assert [row.id for row in SIGNATURES if not is_complete(row)] == []


@pytest.mark.parametrize("third", range(3))
def test_an_example_gives_only_its_own_finding_with_every_third_prefix(third):
    for row in SIGNATURES[third::3]:
        for prefix in islice(PREFIXES.values(), third, None, 3):
            matches = findings(prefix.format(row.example))
            assert set(matches) - set(row.companions) == {row.id}, prefix
            finding = matches[row.id]
            assert (finding.level, finding.certainty) == (row.level, row.certainty), row.id
            assert (finding.count, finding.evidence[0].where) == (1, "a.log:1"), row.id


def test_an_example_gives_its_finding_in_a_json_log():
    def log(row: Signature) -> str:
        line = PREFIXES["vLLM 0.9"].format(row.example)
        return json.dumps({"log": line, "stream": "stderr", "time": "now"}) + "\n"

    assert [row.id for row in SIGNATURES if row.id not in findings(log(row))] == []


def test_a_finding_has_a_title_and_no_braces_left():
    for row in SIGNATURES:
        finding = findings(row.example + "\n")[row.id]
        text = " ".join((finding.title, finding.why, *finding.do))
        assert finding.title, row.id
        assert not re.search(r"\{[a-z_]+\}", text), row.id


def test_the_braces_of_a_row_name_its_groups_or_facts():
    known = set(LogFacts().values()) | set(UNKNOWN_SERVER.values())
    for row in SIGNATURES:
        text = " ".join((row.title, row.why, *(step.text for step in row.do)))
        groups = row.match(read_line(row.example.encode()))
        assert set(re.findall(r"\{(\w+)\}", text)) <= set(groups or {}) | known, row.id


def test_plain_english_gives_no_finding():
    lines = [
        line
        for part in ("calibration", "heldout")
        for document in builtin(part)
        for line in document.text.splitlines()
    ]
    text = "\n".join(lines)
    assert len(text) > 200_000
    assert {id: f.level for id, f in findings(text).items() if f.level != "note"} == {}


def test_a_prompt_about_an_error_is_not_an_error():
    line = (
        "INFO 11-21 01:25:22 [logger.py:43] Received request cmpl-1: prompt: 'Why does vLLM say "
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB? And of ValueError: "
        "No available memory for the cache blocks.', params: SamplingParams(n=1)\n"
    )
    assert findings(line) == {}


def test_an_error_quoted_in_a_sentence_is_not_an_error():
    def log(row: Signature) -> str:
        line = f"Received request cmpl-1: prompt: 'What is {row.example}'"
        return PREFIXES["vLLM 0.9"].format(line)

    rows = [row for row in SIGNATURES if row.level in BAD]
    assert [row.id for row in rows if row.id in findings(log(row))] == []


def test_every_file_of_signatures_is_a_subject():
    assert {path.stem for path in FOLDER.glob("*.toml")} == {*SUBJECTS, "steps"}


def test_every_shared_step_is_used():
    text = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.toml"))
    steps = tomli.loads((FOLDER / "steps.toml").read_text(encoding="utf-8"))
    assert {name for name in steps if f'"${name}"' not in text} == set()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("colour = 'red'", r"\[new\]: .*'colour'"),
        ("", r"\[new\]: .*'level'"),
        ("do = ['$nothing']", "nothing"),
        ("level = 3]", "Expected newline"),
    ],
)
def test_a_row_with_an_unknown_key_step_or_syntax_is_an_error(tmp_path, line, message):
    for path in FOLDER.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    with (tmp_path / "memory.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n[new]\ntitle = ''\nanchor = ''\nexample = ''\n{line}\n")
    with pytest.raises((TypeError, KeyError, ValueError), match=message):
        read_signatures(tmp_path)
