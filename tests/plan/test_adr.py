"""Laws of the decision record: one decision, short, with what it takes to make it again."""

import hashlib
import re
from datetime import date

import pytest

from salient import api
from salient.core.version import __version__
from salient.plan.adr import record
from salient.plan.options import PlanOptions
from salient.plan.planner import make_plan
from salient.shapes.resolve import CONFIGS

LLAMA = "meta-llama/Llama-3.1-8B"
DEVICES = ("RTX 4090", "H100", "RTX 4060", "M3 Max", "MI300X", "EPYC 9654", "T4")
HEADINGS = ["## Context", "## Decision", "## Alternatives", "## Rejected devices",
            "## Consequences", "## When to reconsider"]  # fmt: skip


def text_of(model: str = LLAMA, **options) -> str:
    return record(make_plan(PlanOptions(model, **options)), date(2026, 1, 2))


def test_a_record_names_versions_config_and_command(tmp_path):
    path = tmp_path / "adr.md"
    api.plan(LLAMA, gpu="RTX 4090", require="ttft=1s,decode=30", adr=str(path))
    text = path.read_text()
    config = (CONFIGS / "meta-llama--Llama-3.1-8B.json").read_bytes()
    command = f"`salient plan {LLAMA} --gpu 'RTX 4090' --require ttft=1s,decode=30`"
    digest = hashlib.sha256(config).hexdigest()
    assert all(part in text for part in (f"Salient {__version__}, vLLM 0.32", digest, command))
    assert [p.name for p in tmp_path.iterdir()] == ["adr.md"]


def test_a_record_has_one_decision_and_a_line_for_each_rejected_device():
    text = text_of(gpu=DEVICES, require="decode=50", concurrency=4)
    assert re.findall("^## .*", text, flags=re.M) == HEADINGS
    assert text.startswith(f"# Serve {LLAMA} as AWQ w4-g128 on RTX 4090\n")
    rejected = text.split("## Rejected devices")[1].split("##")[0].strip().splitlines()
    assert len(rejected) == len(DEVICES) - 1
    assert text.count("```sh") == 1


@pytest.mark.parametrize(
    "options",
    [
        {"gpu": DEVICES * 3},
        {"gpu": DEVICES[:2], "model": "deepseek-ai/DeepSeek-V3"},
        {"gpu": "RTX 4060", "model": "meta-llama/Llama-3.1-70B"},
        {"gpu": "M3 Max"},
        {},
    ],
)
def test_a_record_has_at_most_80_lines(options):
    text = text_of(**options)
    assert len(text.splitlines()) <= 80
    assert "0 sequences" not in text


def test_a_record_says_when_to_reconsider_in_numbers():
    text = text_of(gpu="RTX 4090", context_length=16384, concurrency=4)
    conditions = text.split("## When to reconsider")[1]
    assert re.search("more than 7 sequences of 16,384 tokens", conditions)
    assert re.search(r"below \d+ tokens/s", conditions)
    assert "vLLM 0.32" in conditions


@pytest.mark.parametrize("options", [{"gpu": DEVICES}, {"gpu": "RTX 4090"}])
def test_a_record_is_well_formed_markdown(options):
    tables = re.findall(r"(?:^\|.*\|\n)+", text_of(**options), flags=re.M)
    assert len(tables) == 1
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
