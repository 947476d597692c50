"""Fit the constants of plan's speed to published figures, and check them on figures held out.

    python benchmarks/fit_speed.py           errors of the shipped constants, class by class
    python benchmarks/fit_speed.py --fit     fit them again and ship them
    python benchmarks/fit_speed.py --worst 9 the same, and the worst forecasts

Half of the figures of every class of devices, by the hash of their names, are held out: the fit
does not read them. It starts from speed_start.json, estimates from data sheets and from single
figures, and strays from it only as far as figures pull (a ridge). The widths of ranges come from
figures left out of fits to parts of the same half.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from salient.core.records import from_json, to_json
from salient.plan.speed import UNSEEN, widths
from salient.plan.speed_rates import ClassAccuracy, SpeedConstants, speed_constants
from speed_figures import Figure, folds, halves, published, read_figures

START = Path(__file__).with_name("speed_start.json")
SHIPPED = Path(__file__).parent.parent / "src/salient/plan/speed_constants.json"
NOISE = 0.10  # of a figure, as a logarithm: residuals count in units of it
HEAVY = 2.5  # units beyond which a figure pulls less (Cauchy's loss)
WEIGHTS = {"rate": 1.0, "prefill": 0.6, "ttft": 0.6}
COVERED = 0.86  # of the figures left out, inside a range
USUAL = 8  # figures that the spread of all classes counts for in the spread of one
STEP = 1e-4
# What the fit changes, and how far it may stray from the start, as a logarithm.
FREE = {
    "devices": {"reads": 0.2, "multiplies": 0.5, "latency": 0.4, "unpacks": 0.4},
    "engines": {
        "reads": 0.1, "multiplies": 0.3, "experts": 0.3, "expert_products": 0.5, "cache": 0.4,
        "block": 0.7, "sparse": 0.7, "mixer": 0.7, "eager": 0.7, "prompt_block": 0.7, "step": 0.7,
        "row": 0.7, "reduce": 0.7, "pcie": 0.7, "first": 0.7, "old_step": 0.7, "old_row": 0.7,
        "old_prompt_block": 0.7, "latent": 0.7,
    },
    "kernels": {"reads": 0.15, "multiplies": 0.25, "unpacks": 0.5, "limit": 0.2, "rows": 0.5},
}  # fmt: skip
# Shares are relative to these.
FIXED = {("engines", "vllm", "reads"), ("engines", "vllm", "multiplies"),
         ("kernels", "16-bit", "reads"), ("kernels", "16-bit", "multiplies")}  # fmt: skip


class Handle(NamedTuple):
    """A number that the fit changes."""

    part: str
    name: str
    field: str
    width: float


def rows_of(constants: SpeedConstants, part: str) -> dict:
    rows = getattr(constants, part)
    return rows if isinstance(rows, dict) else {row.name: row for row in rows}


def handles(constants: SpeedConstants) -> list[Handle]:
    return [
        Handle(part, name, field, width)
        for part, fields in FREE.items()
        for name, row in rows_of(constants, part).items()
        for field, width in fields.items()
        if getattr(row, field) and (part, name, field) not in FIXED
    ]


def with_values(constants: SpeedConstants, free: list[Handle], point: np.ndarray) -> SpeedConstants:
    changes: dict[tuple[str, str], dict[str, float]] = {}
    for handle, value in zip(free, point, strict=True):
        changes.setdefault((handle.part, handle.name), {})[handle.field] = math.exp(value)
    tables = {part: dict(rows_of(constants, part)) for part in FREE}
    for (part, name), fields in changes.items():
        tables[part][name] = replace(tables[part][name], **fields)
    return replace(constants, **tables | {"devices": tuple(tables["devices"].values())})


@dataclass
class Fit:
    """Levenberg-Marquardt on Cauchy's loss of the errors, with a ridge toward the start."""

    start: SpeedConstants
    figures: list[Figure]

    def __post_init__(self) -> None:
        self.free = handles(self.start)
        tables = {part: rows_of(self.start, part) for part in FREE}
        values = [getattr(tables[h.part][h.name], h.field) for h in self.free]
        self.origin = np.log(np.array(values))
        self.widths = np.array([handle.width for handle in self.free])
        self.scale = np.array([WEIGHTS[figure.what] / NOISE for figure in self.figures])
        rows = [{("devices", f.group), ("engines", f.engine), ("kernels", f.kernel)}
                for f in self.figures]  # fmt: skip
        self.users = [[i for i, row in enumerate(rows) if h[:2] in row] for h in self.free]

    def residuals(self, point: np.ndarray, some: list[int] | slice = slice(None)) -> np.ndarray:
        constants = with_values(self.start, self.free, point)
        figures = [self.figures[i] for i in some] if isinstance(some, list) else self.figures
        return np.array([figure.error(constants) for figure in figures]) * self.scale[some]

    def loss(self, residuals: np.ndarray, point: np.ndarray) -> float:
        ridge = (((point - self.origin) / self.widths) ** 2).sum()
        return float(HEAVY**2 * np.log1p((residuals / HEAVY) ** 2).sum() + ridge)

    def slopes(self, point: np.ndarray, residuals: np.ndarray) -> np.ndarray:
        slopes = np.zeros((len(self.figures), len(self.free)))
        for index, users in enumerate(self.users):
            if users:
                moved = point.copy()
                moved[index] += STEP
                slopes[users, index] = (self.residuals(moved, users) - residuals[users]) / STEP
        return slopes

    def run(self, rounds: int) -> SpeedConstants:
        point, damping = self.origin.copy(), 1.0
        residuals = self.residuals(point)
        best = self.loss(residuals, point)
        for _ in range(rounds):
            slopes = self.slopes(point, residuals)
            weight = 1 / (1 + (residuals / HEAVY) ** 2)
            curvature = slopes.T @ (slopes * weight[:, None]) + np.diag(1 / self.widths**2)
            slope = slopes.T @ (weight * residuals) + (point - self.origin) / self.widths**2
            gain = 0.0
            while damping < 1e6:
                damped = curvature + damping * np.diag(np.diag(curvature))
                trial = point - np.linalg.solve(damped, slope)
                trial_residuals = self.residuals(trial)
                gain = best - self.loss(trial_residuals, trial)
                if gain > 0:
                    break
                damping *= 4
            if gain <= 0:
                break
            point, residuals, best, damping = trial, trial_residuals, best - gain, damping / 3
            if gain < 1e-3 * best:
                break
        return with_values(self.start, self.free, point)


def accuracy(
    constants: SpeedConstants, figures: list[Figure], unread: list[Figure],
    left_out: list[tuple[Figure, float]],
) -> dict[str, ClassAccuracy]:  # fmt: skip
    """What forecasts say of their errors.

    The widths are from `left_out`, figures with the errors of fits to others of the same half.
    """
    table = {}
    usual = {
        rate: _spread(error for figure, error in left_out if (figure.what == "rate") == rate)
        for rate in (True, False)
    }
    for row in constants.devices:
        errors = [abs(f.error(constants)) for f in unread
                  if (f.group, f.what) == (row.name, "rate")]  # fmt: skip
        spreads = {}
        for rate in (True, False):
            own = [e for f, e in left_out if f.group == row.name and (f.what == "rate") == rate]
            squares = len(own) * _spread(own) ** 2 + USUAL * usual[rate] ** 2
            spreads[rate] = math.sqrt(squares / (len(own) + USUAL))
        engines = {f.engine for f in figures if (f.group, f.what) == (row.name, "rate")}
        unseen = 1.0 if engines else UNSEEN
        table[row.name] = ClassAccuracy(
            len(errors),
            round(statistics.median(errors), 3) if errors else 0.0,
            round(unseen * spreads[True], 3),
            round(unseen * spreads[False], 3),
            tuple(sorted(engines)),
        )
    return table


def _spread(errors: Iterable[float]) -> float:
    """The width that covers COVERED of the errors."""
    sizes = sorted(abs(error) for error in errors)
    return float(np.quantile(sizes, COVERED)) if sizes else 0.0


def write_constants(constants: SpeedConstants) -> None:
    """One row a line, three digits a number."""

    def rounded(value: object) -> object:
        if isinstance(value, dict):
            return {key: rounded(item) for key, item in value.items()}
        if isinstance(value, list):
            return [rounded(item) for item in value]
        return float(f"{value:.3g}") if isinstance(value, float) else value

    parts = []
    for part, table in rounded(to_json(constants)).items():
        rows, ends = [json.dumps(row) for row in table], "[]"
        if isinstance(table, dict):
            rows, ends = (
                [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in table.items()],
                "{}",
            )
        body = ",\n  ".join(rows)
        parts.append(f' "{part}": {ends[0]}\n  {body}\n {ends[1]}')
    SHIPPED.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def fit_again(start: SpeedConstants, figures: list[Figure], rounds: int) -> SpeedConstants:
    fitted, unread = halves(figures)
    left_out = [
        (figure, figure.error(constants))
        for part, rest in folds(fitted, 4)
        for constants in [Fit(start, part).run(rounds)]
        for figure in rest
    ]
    constants = Fit(start, fitted).run(rounds)
    return replace(constants, accuracy=accuracy(constants, figures, unread, left_out))


def print_table(constants: SpeedConstants, figures: list[Figure], worst: int) -> None:
    fitted, unread = halves(figures)
    print("| class | figures of the fit | held out | median error | largest | in the range |")
    print("|---|---:|---:|---:|---:|---:|")
    rates = [figure for figure in unread if figure.what == "rate"]
    groups = [row.name for row in constants.devices]
    for group in [*groups, "all"]:
        mine = [f for f in rates if group in (f.group, "all")]
        if not mine:
            continue
        number = sum(group in (f.group, "all") for f in fitted if f.what == "rate")
        print(f"| {group} | {number} | {_columns(mine, constants)} |")
    for what, name in (("prefill", "prompts"), ("ttft", "first tokens")):
        mine = [f for f in unread if f.what == what]
        number = sum(f.what == what for f in fitted)
        print(f"| {name} | {number} | {_columns(mine, constants)} |")
    names = {figure.name for figure in unread}
    table = {row["id"]: row for row in published()["figures"]}
    for f in sorted(figures, key=lambda f: -abs(f.error(constants)))[:worst]:
        row = table[f.name.split()[0]]
        half = "held out" if f.name in names else "fit"
        print(f"{half}  {f.name}  x{math.exp(f.error(constants)):.2f}  {f.kernel}  "
              + " ".join(str(v) for k, v in row.items() if k != "source"))  # fmt: skip


def _columns(figures: list[Figure], constants: SpeedConstants) -> str:
    errors = [abs(figure.error(constants)) for figure in figures]
    inside = sum(
        error <= widths(figure.load, constants)[figure.what != "rate"]
        for figure, error in zip(figures, errors, strict=True)
    )
    median, largest = statistics.median(errors), max(errors)
    return (f"{len(errors)} | {math.expm1(median):.0%} | x {math.exp(largest):.2f} | "
            f"{inside / len(errors):.0%}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--worst", type=int, default=0)
    options = parser.parse_args()
    if options.fit:
        start = from_json(SpeedConstants, json.loads(START.read_text(encoding="utf-8")))
        write_constants(fit_again(start, list(read_figures(start)), options.rounds))
    constants = speed_constants()
    print_table(constants, list(read_figures(constants)), options.worst)


if __name__ == "__main__":
    main()
