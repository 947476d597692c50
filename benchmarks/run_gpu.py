"""Correctness and speed of the Triton kernel on a GPU, compared with 16-bit products.

One call checks and times everything. Nothing is timed unless the kernel agrees with the reference
on odd shapes and on the timed layers.

    .venv/bin/python benchmarks/run_gpu.py                       # a few minutes, with decoding of
                                                                 # a random 8B model
    .venv/bin/python benchmarks/run_gpu.py --json gpu.json --group-size 64
    .venv/bin/python benchmarks/run_gpu.py --sweep               # also other launch settings

The bars, each against torch.mm in bfloat16 (cuBLAS or rocBLAS) on every layer: 3.2 times as fast
and 80 % of the measured copy bandwidth at 1 row, 2.5 times at 16, 0.9 at 512. The table is
Markdown, for RESULTS.md. Exit code 1 if a bar is missed or the kernel is wrong, 2 without a GPU.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_decode import LLAMA_8B, decode_rates
from gpu_timing import copies, copy_bandwidth, microseconds
from machine import conditions
from salient.core.quant import QuantizedWeight
from salient.core.scheme import Scheme
from salient.kernels import triton_launch
from salient.kernels.base import Layer, PackedWeight
from salient.kernels.dense import ReferenceWeight
from salient.kernels.registry import FOREIGN, find_kernel
from salient.kernels.triton import TritonWeight
from subprocess_run import log_step

DTYPE = torch.bfloat16
LAYERS = {  # those of an 8B Llama -> inputs, outputs
    "o": (4096, 4096),
    "qkv": (4096, 6144),
    "gate, up": (4096, 14336),
    "down": (14336, 4096),
}
ODD = [(200, 17, 8), (960, 50, 24), (1152, 130, 128), (4160, 72, 32)]  # inputs, outputs, group
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CHECKED = (1, 3, 8, 9, 16, 17, 40, 130, 1100)
TOLERANCE = 1e-2  # bfloat16 weights and results are each rounded once
SPEEDUPS = {1: 3.2, 16: 2.5, 512: 0.9}  # rows -> times as fast as torch.mm
BANDWIDTH = {1: 0.8}  # rows -> share of the copy bandwidth


def main() -> None:
    """Check, time, compare with the bars, report."""
    options = parse()
    if not torch.cuda.is_available():
        log_step("torch has no GPU here: nothing was checked or timed.")
        raise SystemExit(2)
    torch.manual_seed(0)
    scheme = Scheme(options.group_size, options.symmetric)
    worst = check(scheme)
    bandwidth = copy_bandwidth()
    log_step(f"largest error {worst:.1e}; copies move {bandwidth / 1e12:.2f} TB/s")
    timed = [row for name in LAYERS for row in time_layer(name, scheme, bandwidth)]
    data = {
        **conditions(),
        "gpu": torch.cuda.get_device_name(),
        "driver": torch.version.cuda or torch.version.hip,
        "scheme": str(scheme),
        "worst_error": worst,
        "copy_bytes_per_second": bandwidth,
        "timed": timed,
        "missed": missed(timed),
        "sweep": sweep(scheme) if options.sweep else [],
        "decode": {},
    }
    if not options.layers_only:
        data["decode"] = decode_rates(LLAMA_8B, scheme, options.work, "cuda")
    if not options.layers_only:
        data["decode"] = decode_rates(LLAMA_8B, scheme, options.work, "cuda")
    if options.json:
        options.json.write_text(json.dumps(data, indent=2) + "\n")
    print("\n".join(table(data)))
    if data["missed"]:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--symmetric", action="store_true")
    parser.add_argument("--sweep", action="store_true", help="time other launch settings as well")
    parser.add_argument("--layers-only", action="store_true", help="no decoding of a whole model")
    parser.add_argument("--work", type=Path, default=Path(".work/gpu"))
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def random_weight(width: int, out: int, scheme: Scheme) -> QuantizedWeight:
    """Random codes, zeros and scales of a weight with unit gain, on the GPU."""
    groups = width // scheme.group_size
    codes = torch.randint(16, (out, width), dtype=torch.uint8, device="cuda")
    zero = torch.randint(4, 12, (out, groups), dtype=torch.uint8, device="cuda")
    scale = (torch.rand(out, groups, device="cuda") + 0.5) / 5 / width**0.5
    if scheme.symmetric:
        zero.fill_(scheme.middle)
    return QuantizedWeight(codes, scale.to(torch.float16).to(DTYPE).float(), zero, scheme)


def layer_of(width: int, out: int, scheme: Scheme) -> Layer:
    return Layer(out, width, scheme, torch.device("cuda"), DTYPE)


# Correctness


def check(scheme: Scheme) -> float:
    """The largest relative error over odd shapes and the timed layers. Exits for a wrong one."""
    cases = [(width, out, Scheme(g, s)) for width, out, g in ODD for s in (False, True)]
    cases += [(*sizes, scheme) for sizes in LAYERS.values()]
    worst = 0.0
    for width, out, of in cases:
        weight, layer = random_weight(width, out, of), layer_of(width, out, of)
        if reason := TritonWeight.unsupported(layer):
            log_step(f"The triton kernel does not run here: {reason}.")
            raise SystemExit(2)
        ours, reference = TritonWeight(weight, layer), ReferenceWeight(weight, layer)
        worst = max(worst, agree(ours, reference, f"{width} to {out}, {of}"))
    return worst


def agree(ours: PackedWeight, reference: PackedWeight, what: str) -> float:
    """The largest relative error over CHECKED rows. Exits if it is too large or NaN."""
    worst = 0.0
    for rows in CHECKED:
        x = torch.randn(rows, ours.width, device="cuda", dtype=DTYPE)
        torch.full((rows, ours.out), math.nan, device="cuda", dtype=DTYPE)  # freed: y's memory
        expected = reference(x).float()
        off = float((ours(x).float() - expected).norm() / expected.norm())
        if not off <= TOLERANCE:
            log_step(f"{ours.name} is WRONG for {rows} rows, {what}: {off:.2e}. No times.")
            raise SystemExit(1)
        worst = max(worst, off)
    return worst


# Speed


def time_layer(name: str, scheme: Scheme, bandwidth: float) -> list[dict[str, Any]]:
    """A row of figures for each of ROWS: ours, torch.mm, and other installed kernels."""
    width, out = LAYERS[name]
    layer = layer_of(width, out, scheme)
    weights_of = {"triton": packed(TritonWeight, layer)}
    for kernel in map(find_kernel, FOREIGN):
        if reason := kernel.unsupported(layer):
            log_step(f"{name}: no {kernel.name}: {reason}")
        else:
            weights_of[kernel.name] = packed(kernel, layer)
    dense = [
        torch.randn(out, width, device="cuda", dtype=DTYPE) for _ in range(copies(2 * out * width))
    ]
    timed = []
    for rows in ROWS:
        log_step(f"timing {name}, {rows} rows")
        x = torch.randn(rows, width, device="cuda", dtype=DTYPE)
        times = {"mm": microseconds([partial(torch.mm, x, w.t()) for w in dense])}
        for kernel, weights in weights_of.items():
            times[kernel] = microseconds([partial(w, x) for w in weights])
        moved = weights_of["triton"][0].bytes + x.nbytes + rows * out * DTYPE.itemsize
        figures = {"speedup": times["mm"] / times["triton"]}
        figures["bandwidth"] = moved / (times["triton"] * 1e-6) / bandwidth
        sizes = {"layer": name, "in": width, "out": out, "rows": rows}
        timed.append({**sizes, "us": times, **figures})
    return timed


def packed(kernel: type[PackedWeight], layer: Layer) -> list[PackedWeight]:
    """Different weights that together exceed the L2; a foreign kernel is checked first."""
    weight = random_weight(layer.width, layer.out, layer.scheme)
    first = kernel(weight, layer)
    if kernel.name != TritonWeight.name:
        agree(first, ReferenceWeight(weight, layer), str(layer.scheme))
    weights = [first]
    while len(weights) < copies(first.bytes):
        weights.append(kernel(random_weight(layer.width, layer.out, layer.scheme), layer))
    return weights


def missed(timed: list[dict[str, Any]]) -> list[str]:
    """The missed bars as text."""
    lines = []
    for row in timed:
        for what, bars in (("speedup", SPEEDUPS), ("bandwidth", BANDWIDTH)):
            bar = bars.get(row["rows"])
            if bar is not None and row[what] < bar:
                where = f"{row['layer']}, {row['rows']} rows"
                lines.append(f"{where}: {what} {row[what]:.2f}, the bar is {bar}")
    return lines


def sweep(scheme: Scheme) -> list[dict[str, Any]]:
    """Times of other launch settings on one layer, the fastest of each number of rows first."""
    width, out = LAYERS["gate, up"]
    weights = packed(TritonWeight, layer_of(width, out, scheme))
    weights_of = [
        triton_launch.PackedOperands(w.packed, w.scale, w.zero, w.scale_dtype, w.out, w.group_size)
        for w in weights
        if isinstance(w, TritonWeight)
    ]
    chosen = triton_launch.settings_of(torch.device("cuda"))
    figures = []
    for rows in (1, 8, 16, 32, 64, 512):
        x = torch.randn(rows, width, device="cuda", dtype=DTYPE)
        for run, settings in variants(chosen, rows):
            try:
                us = microseconds([partial(run, x, h, settings) for h in weights_of])
            except RuntimeError as error:  # too much shared memory or too many registers
                log_step(f"{settings}: {error}")
                continue
            figures.append({"rows": rows, "us": us, "settings": str(settings)})
    return sorted(figures, key=lambda row: (row["rows"], row["us"]))


def variants(
    chosen: triton_launch.LaunchSettings, rows: int
) -> list[tuple[Callable[..., Tensor], Any]]:
    """The default settings for `rows` rows, and similar ones."""
    weights: list[tuple[Callable[..., Tensor], Any]] = []
    base = next((s for s in chosen.narrow if rows <= s.rows), None)
    if base:
        for out_tile in (16, 32, 64):
            for warps, blocks, stages in ((4, 2, 3), (4, 1, 4), (8, 1, 4), (8, 2, 3), (16, 1, 3)):
                s = replace(base, out_tile=out_tile, warps=warps, blocks=blocks, stages=stages)
                weights.append((triton_launch.run_narrow, s))
    if rows >= 16:
        wide = next(s for s in chosen.wide if rows <= s.rows)
        for rows_tile in {16, 32, 64, 128, 256} & {wide.rows_tile // 2, wide.rows_tile, 256}:
            for out_tile, warps, stages in ((64, 4, 4), (128, 4, 3), (128, 4, 4), (128, 8, 3)):
                s = replace(
                    wide, rows_tile=rows_tile, out_tile=out_tile, warps=warps, stages=stages
                )
                weights.append((triton_launch.run_wide, s))
    return weights


def table(data: dict[str, Any]) -> list[str]:
    """Everything as Markdown."""
    others = sorted({kernel for row in data["timed"] for kernel in row["us"]} - {"mm", "triton"})
    names = ["layer (in x out)", "rows", "torch.mm", "triton", *others, "speedup", "bandwidth"]
    lines = [
        f"{data['gpu']}, {data['scheme']}, copies at {data['copy_bytes_per_second'] / 1e12:.2f} "
        f"TB/s; torch {torch.__version__}; {data['date']}. Microseconds.",
        "",
        f"| {' | '.join(names)} |",
        f"|---|{'---:|' * (len(names) - 1)}",
    ]
    for row in data["timed"]:
        times = [f"{row['us'][k]:.1f}" if k in row["us"] else "" for k in ("mm", "triton", *others)]
        ends = [f"{row['speedup']:.2f}", f"{row['bandwidth']:.0%}"]
        label = f"{row['layer']} ({row['in']} x {row['out']})"
        lines.append(f"| {' | '.join([label, str(row['rows']), *times, *ends])} |")
    for row in data["sweep"]:
        lines.append(f"{row['rows']} rows: {row['us']:.1f} us with {row['settings']}")
    for engine, rate in data["decode"].items():
        lines.append(f"random Llama of 8B's shape, one sequence, {engine}: {rate:.1f} tokens/s")
    return [*lines, "", *(data["missed"] or ["All bars are met."])]


if __name__ == "__main__":
    main()
