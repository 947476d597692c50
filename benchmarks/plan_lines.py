"""Every line that plan prints, over all configs of a folder, devices and engines: does it run?

    .venv/bin/python benchmarks/plan_lines.py tests/plan/field/configs [--engine vllm] [--part 1/4]

A serving line must name no config.json, carry no --quantization on a quantized checkpoint, and have
only options of the engine's release; doctor must find no error in it. No `salient quantize` for a
quantized checkpoint. Exit code 1 if anything went wrong.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from salient.core.errors import SalientError
from salient.diagnose.doctor import diagnose
from salient.diagnose.options import DoctorOptions
from salient.plan import planner
from salient.plan.engine_options import accepts
from salient.plan.options import PlanOptions
from salient.plan.planner import Plan, make_plan

DEVICES = ("RTX 3090", "RTX 4090", "2xRTX 5090", "L40S", "A100 SXM 80GB", "8xH100 SXM", "H200",
           "B200", "DGX Spark", "T4", "MI300X", "M3 Max 64GB")  # fmt: skip
STARTS = {"vllm": "vllm serve ", "sglang": "python -m sglang.launch_server "}


def faults(plan: Plan, config: Path, engine: str, folder: Path) -> Iterator[str]:
    """What is wrong with the lines of a plan."""
    for device in plan.devices:
        for line in device.commands:
            quantized = bool(plan.shape.quantization)
            if "config.json" in line:
                yield f"{device.gpu.name}: a path to a config: {line}"
            if quantized and (line.startswith("salient quantize") or "--quantization" in line):
                yield f"{device.gpu.name}: quantizes what is quantized: {line}"
            if not line.startswith(STARTS.get(engine, "\0")):
                continue
            names = re.findall(r" --([a-z][\w-]+)", line)
            release = device.load.version if engine == "vllm" else None
            for name in names:
                if not accepts(engine, name.replace("-", "_"), release):
                    yield f"{device.gpu.name}: {engine} has no --{name}: {line}"
            (folder / "serve.sh").write_text(line + "\n", encoding="utf-8")
            options = DoctorOptions(
                target=str(config), config=str(folder / "serve.sh"), gpu=device.gpu.name
            )
            for finding in diagnose(options).findings:
                if finding.level == "error":
                    yield f"{device.gpu.name}: {finding.id}: {finding.title}: {line}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", default="vllm")
    parser.add_argument("--part", default="1/1", help="which part of the configs: 1/4")
    options = parser.parse_args()
    planner.changes = lambda *_: ()  # the search for advice takes most of the time
    part, parts = map(int, options.part.split("/"))
    configs = sorted([*options.folder.glob("*/config.json"), *options.folder.glob("*.json")])
    printed = wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for config in configs[part - 1 :: parts]:
            try:
                plan = make_plan(PlanOptions(str(config), gpu=DEVICES, engine=options.engine))
            except SalientError as error:
                print(f"{config}: not planned: {error}")
                continue
            printed += sum(len(device.commands) for device in plan.devices)
            for fault in faults(plan, config, options.engine, Path(folder)):
                wrong += 1
                print(f"{config}: {fault}", flush=True)
    print(f"{len(configs)} configs, {len(DEVICES)} devices, {printed} lines, {wrong} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
