"""Whether every suggestion of `salient plan` does when it is typed: a folder of configs x devices.

    python benchmarks/plan_advice.py FOLDER [--seed 1] [--plans 300]

Prints the plans without a good format, how many had advice, and every suggestion that failed.
"""

import argparse
import random
import time
from dataclasses import replace
from pathlib import Path

from salient.core.errors import SalientError
from salient.plan.options import PlanOptions
from salient.plan.planner import make_plan

DEVICES = ("RTX 4060", "RTX 3090", "RTX 4090", "RTX 5090", "L4", "T4", "V100", "A100", "H100",
           "2x RTX 3090", "8x H100", "B200", "DGX Spark", "MI300X", "M3 Max")  # fmt: skip
BOUNDS = ("", "", "", "decode=30", "throughput=500", "ttft=1s", "memory=40GB")


def _options(configs: list[Path], pick: random.Random) -> PlanOptions:
    return PlanOptions(
        str(pick.choice(configs)),
        gpu=(pick.choice(DEVICES),),
        context_length=pick.choice((None, 16384, 32768)),
        concurrency=pick.choice((1, 4, 16, 64)),
        require=pick.choice(BOUNDS),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plans", type=int, default=300)
    arguments = parser.parse_args()
    configs, pick = (
        sorted([*arguments.folder.glob("*/config.json"), *arguments.folder.glob("*.json")]),
        random.Random(arguments.seed),
    )
    bad = advised = suggestions = 0
    slowest = 0.0
    for _ in range(arguments.plans):
        options = _options(configs, pick)
        start = time.perf_counter()
        try:
            device = make_plan(options).devices[0]
        except SalientError:
            continue
        slowest = max(slowest, time.perf_counter() - start)
        bad += not device.best.good
        advised += bool(device.advice)
        for change in device.advice:
            suggestions += 1
            again = replace(options, **change.options)
            if "gpu" in change.options:
                again = replace(again, gpu=tuple(str(change.options["gpu"]).split(",")))
            failed = [one.gpu.name for one in make_plan(again).devices if not one.best.good]
            if failed:
                print("FAILED", options.model, options.gpu, change.text, failed)
    print(f"{bad} plans without a good format, {advised} with advice, {suggestions} suggestions")
    print(f"slowest plan {slowest:.2f} s")


if __name__ == "__main__":
    main()
