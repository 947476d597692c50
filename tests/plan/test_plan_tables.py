"""A plan on narrow and wide terminals: the verdict first, no broken word, one screen."""

import io
import re
import shlex
from dataclasses import replace

import pytest
from rich.console import Console

from salient import api
from salient.core.report import Report
from salient.plan.figures import size_text
from salient.plan.options import PlanOptions
from salient.plan.planner import make_plan
from salient.plan.report import to_report

PLANS = {
    "sizes": ("Qwen/Qwen3-30B-A3B", ()),
    "devices": ("meta-llama/Llama-3.1-8B", ("RTX 4090", "MI300X", "EPYC 9654")),
    "large": ("deepseek-ai/DeepSeek-V3", ("GB300",)),
    "too large": ("meta-llama/Llama-3.1-70B", ("T4",)),
}


@pytest.fixture(scope="module", params=PLANS.values(), ids=PLANS)
def report(request) -> Report:
    model, gpu = request.param
    return api.plan(model, gpu=gpu, details=True).report


def shown(report: Report, width: int, *, wrap: bool = True) -> list[str]:
    text = io.StringIO()
    report.show(Console(file=text, width=width), wrap=wrap)
    return text.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_breaks_no_word(report, width):
    for table in report.tables:
        lines = shown(Report({}, [table]), width)[1:]
        assert all(len(line) <= width for line in lines)
        assert lines[0].startswith("┏")
        printed = set(" ".join(lines).split())
        always = [n for n, column in enumerate(table.columns) if column not in table.optional]
        assert {word for row in table.rows for n in always for word in row[n].split()} <= printed


SCREENS = {
    "fits": ("meta-llama/Llama-3.1-8B", {"gpu": "RTX 4090", "concurrency": 4}),
    "requirements": ("Qwen/Qwen3-30B-A3B", {"gpu": "A100 80GB", "require": "decode=9000"}),
    "too large": ("deepseek-ai/DeepSeek-V3", {"gpu": "RTX PRO 6000"}),
    "nothing runs": ("Qwen/Qwen3-8B", {"gpu": "M3 Max"}),
    "llama.cpp": ("Qwen/Qwen3-8B", {"gpu": "M3 Max", "engine": "llama.cpp"}),
    "unknown device": ("Qwen/Qwen3-8B", {"vram": 24}),
    "no device": ("Qwen/Qwen3-8B", {}),
    "several devices": ("Qwen/Qwen3-8B", {"gpu": ["RTX 4090", "H100", "T4", "M3 Max"]}),
}


@pytest.mark.parametrize(("model", "options"), SCREENS.values(), ids=SCREENS)
def test_a_plan_fits_one_screen_with_the_verdict_first(model, options):
    report = api.plan(model, **options).report
    assert len(report.tables) <= 1
    for width in (60, 80, 100, 120, 200):
        lines = shown(report, width)
        assert lines[0].startswith("Model")
        assert model in lines[0]
        assert not options or any(line.startswith("Serve") for line in lines[:4])
        assert max(map(len, lines)) <= width
        assert width < 80 or len(lines) <= 40


def test_commands_are_wrapped_so_that_a_shell_joins_them():
    report = api.plan("Qwen/Qwen3-8B", gpu="RTX 4090").report
    commands = report.data["devices"][0]["commands"]
    for width in (60, 80, 120):
        text = "\n".join(shown(report, width))
        typed = re.findall(r"^  \$ ((?:.*\\\n)*.*)$", text, flags=re.M)
        joined = [shlex.split(line.replace("\\\n", " ")) for line in typed]
        assert joined == [shlex.split(line) for line in commands]


def test_the_lines_of_a_summary_are_whole_without_a_terminal():
    report = api.plan("Qwen/Qwen3-8B", gpu="RTX 4090").report
    lines = shown(report, 80, wrap=False)
    assert {f"  $ {line}" for line in report.data["devices"][0]["commands"]} <= {*lines}


def test_what_is_stored_comes_first_and_the_chosen_format_is_marked():
    report = api.plan("meta-llama/Llama-3.1-8B", gpu="RTX 4090").report
    titles = [row[0] for row in report.tables[0].rows]
    assert titles[0] == "16-bit"
    assert [title for title in titles if title.startswith("> ")] == ["> AWQ w4-g128"]


def test_details_come_on_demand_only():
    brief, full = (
        api.plan("Qwen/Qwen3-8B", gpu="H100 SXM", details=d).report for d in (False, True)
    )
    assert brief.data == full.data
    assert [line.label for line in brief.notes] == []
    assert {"Refused", "Assumed"} <= {line.label for line in full.notes}
    assert any(table.title.startswith("Memory of") for table in full.tables)


def rough_plan(low: int, high: int, gpu: str, **changes):
    plan = make_plan(PlanOptions("meta-llama/Llama-3.1-8B", gpu=gpu))
    shape = replace(plan.shape, rough=("not read: latent_size",), low=low, high=high, **changes)
    return to_report(replace(plan, shape=shape))


def test_a_rough_count_is_a_range_without_a_verdict():
    report = rough_plan(4 * 10**9, 40 * 10**9, "RTX 4090")
    lines = {line.label: line.text for line in report.summary}
    assert "about 8.03 billion parameters (4 billion to 40 billion)" in lines["Model"]
    assert lines["Serve"].startswith("undecided")
    assert lines["Fits"].startswith("unsure, about ")
    assert lines["Why"] == "not read: latent_size"
    speeds = [row[-2] for row in report.tables[0].rows]
    assert all(re.fullmatch(r"[\d.,]+-[\d.,]+", speed) for speed in speeds)


def test_a_rough_count_without_a_device_has_rounded_sizes_and_no_checked_change():
    plan = make_plan(PlanOptions("meta-llama/Llama-3.1-70B", gpu="RTX 4060"))
    assert plan.devices[0].advice
    shape = replace(plan.shape, rough=("not read: latent_size",), low=10**11, high=10**12)
    assert "Change" not in {line.label for line in to_report(replace(plan, shape=shape)).summary}
    table = to_report(replace(plan, shape=shape, devices=())).tables[0]
    assert all(cell.startswith("~") for row in table.rows for cell in row[1:3])


def test_an_unknown_family_is_named_in_the_title():
    report = rough_plan(4 * 10**9, 40 * 10**9, "RTX 4090", model_type="novel")
    assert "family novel unknown" in report.summary[0].text


@pytest.mark.parametrize(("low", "high", "answer"), [(8, 9, "yes"), (8, 60, "?"), (60, 90, "no")])
def test_a_range_fits_where_all_of_it_does(low, high, answer):
    report = rough_plan(low * 10**9, high * 10**9, "RTX 4090")
    first = dict(zip(report.tables[0].columns, report.tables[0].rows[0], strict=True))
    assert first["fits"] == answer


def test_small_rough_counts_are_written_in_their_own_unit():
    plan = make_plan(PlanOptions("Qwen/Qwen3-8B"))
    shape = replace(plan.shape, rough=("not read: x",), low=112_000, high=3_400_000)
    assert "(112 thousand to 3.4 million)" in size_text(shape)


def test_float32_files_are_larger_than_what_runs():
    plan = make_plan(PlanOptions("Qwen/Qwen3-8B"))
    lines = to_report(replace(plan, shape=replace(plan.shape, dtype="float32"))).notes
    assert any("float32, about 30.5" in line.text for line in lines)
