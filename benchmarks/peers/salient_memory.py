"""Resident memory of a process that has just loaded a checkpoint with Salient's runtime.

What torch brings in when triton is installed is counted or not, by --without-triton: a CPU's
install has none, a developer's environment may.

    .venv/bin/python benchmarks/peers/salient_memory.py --model CHECKPOINT --without-triton
"""

import argparse
import json
import sys
from pathlib import Path

import speed


def main() -> None:
    """Load and tell, in one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-triton", action="store_true", help="as if it were not installed")
    given = parser.parse_args()
    speed.use_threads(given.threads)
    if given.without_triton:
        sys.modules["triton"] = None  # type: ignore[assignment]

    import torch

    from salient.core.system import peak_memory, resident_memory
    from salient.runtime.load_engine import load

    torch.set_num_threads(given.threads)
    imported = resident_memory()
    opened = load(str(given.model))
    files = sum(file.stat().st_size for file in given.model.glob("*.safetensors"))
    found = {
        "resident_bytes": resident_memory(),
        "peak_bytes": peak_memory(),
        "imported_bytes": imported,
        "file_bytes": files,
        "triton": sys.modules.get("triton") is not None,
        "runner": opened.engine.runner.how,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
