"""Resident memory of a process after loading a checkpoint with Salient's runtime.

--without-triton excludes what torch loads if triton is installed: an installation for CPUs has no
triton.

    .venv/bin/python benchmarks/peers/salient_memory.py --model CHECKPOINT --without-triton
"""

import argparse
import json
import sys
from pathlib import Path

import speed


def main() -> None:
    """Load; print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-triton", action="store_true", help="as if it were not installed")
    args = parser.parse_args()
    speed.use_threads(args.threads)
    if args.without_triton:
        sys.modules["triton"] = None  # type: ignore[assignment]

    import torch

    from salient.core.system import peak_memory, resident_memory
    from salient.runtime.load_engine import load

    torch.set_num_threads(args.threads)
    imported = resident_memory()
    opened = load(str(args.model))
    files = sum(file.stat().st_size for file in args.model.glob("*.safetensors"))
    figures = {
        "resident_bytes": resident_memory(),
        "peak_bytes": peak_memory(),
        "imported_bytes": imported,
        "file_bytes": files,
        "triton": sys.modules.get("triton") is not None,
        "runner": opened.engine.runner.how,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
