"""The tables of a plan on narrow and wide terminals: no word is broken, no line is too long."""

import io

import pytest
from rich.console import Console

from salient import api
from salient.core.report import Report

PLANS = {
    "sizes": ("Qwen/Qwen3-30B-A3B", ()),
    "devices": ("meta-llama/Llama-3.1-8B", ("RTX 4090", "MI300X", "EPYC 9654")),
    "large": ("deepseek-ai/DeepSeek-V3", ("GB300",)),
    "too large": ("meta-llama/Llama-3.1-70B", ("T4",)),
}


@pytest.fixture(scope="module", params=PLANS.values(), ids=PLANS)
def report(request) -> Report:
    model, gpu = request.param
    return api.plan(model, gpu=gpu).report


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_breaks_no_word(report, width):
    for table in report.tables:
        text = io.StringIO()
        Report({}, [table]).show(Console(file=text, width=width))
        lines = text.getvalue().splitlines()[1:]
        assert all(len(line) <= width for line in lines)
        assert lines[0].startswith("┏")
        printed = set(text.getvalue().split())
        assert {word for row in table.rows for cell in row for word in cell.split()} <= printed
