"""The tables of `bench` and their width."""

import io

import pytest
from rich.console import Console

from salient.core.report import Report
from salient.runtime.bench.bench_report import (
    BenchBatch,
    BenchRow,
    BenchRun,
    Percentiles,
    bench_report,
    winners,
)


def bench() -> Report:
    """A slow model on many sequences: wide numbers in every column."""
    first, between = Percentiles.of([98.7654, 123.456]), Percentiles.of([0.0123, 9.8765])
    batches = [
        BenchBatch(batch, first, between, batch / between.p50, 4096 / 99.0, 140 * 2**30, 0.9)
        for batch in (1, 256)
    ]
    measured = {"kl": 1e-4, "runs_as": "fused blocks", "weight_bytes_a_step": 10**9}
    rows = [BenchRow(name, **measured, batches=batches) for name in ("triton", "16-bit")]
    rows.append(BenchRow("torch-int4", **measured, batches=batches[:1]))
    rows.append(BenchRow("machete", refused="vLLM is not installed"))
    run = BenchRun(
        checkpoint="a/rather-long-name-of-an-organization/and-of-a-model-w4-g128",
        device="cuda:0",
        threads=16,
        prompt_tokens=128,
        new_tokens=64,
        bandwidth_bytes_a_second=4.8e12,
        rows=rows,
        winners=winners(rows),
    )
    return bench_report(run)


@pytest.mark.parametrize("width", [80, 120])
def test_bench_tables_break_no_word_at_this_width(width):
    report = bench()
    console = Console(width=width, file=io.StringIO(), record=True)
    report.show(console)
    text = console.export_text()
    (table,) = report.tables
    assert "┏" in text  # a table, not a list
    rows = [line for line in text.splitlines() if line.startswith(("│", "┃"))]
    assert rows
    assert max(map(len, rows)) <= width
    parts = {word for line in rows for word in line.replace("│", " ").replace("┃", " ").split()}
    for cell in (cell for row in (table.columns, *table.rows) for cell in row):
        assert set(cell.split()) <= parts


def test_all_percentiles_are_in_the_data():
    (first, *_) = bench().data["rows"][0]["batches"]
    assert list(first["first_token_seconds"]) == ["p50", "p90", "p99"]
    assert list(first["between_tokens_seconds"]) == ["p50", "p90", "p99"]
