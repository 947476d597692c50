"""The bandwidth of memory, in bytes per second: the bound of decoding.

A gibibyte, which exceeds every cache, is reduced in several ways; the fastest of all runs counts.

    .venv/bin/python benchmarks/peers/bandwidth.py --threads 2
"""

import argparse
import json
import time

import speed

BYTES = 2**30


def main() -> None:
    """Measure; print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    speed.use_threads(args.threads)

    import torch

    torch.set_num_threads(args.threads)
    buffer = torch.ones(BYTES // 4)
    ways = {
        "float32 sum": buffer.sum,
        "float64 sum": buffer.view(torch.float64).sum,
        "int32 maximum": buffer.view(torch.int32).amax,
    }
    shortest = dict.fromkeys(ways, float("inf"))
    for _ in range(1 + args.repeats):
        for name, read in ways.items():
            start = time.perf_counter()
            read()
            shortest[name] = min(shortest[name], time.perf_counter() - start)
    print(
        json.dumps(
            {
                "bytes_per_s": BYTES / min(shortest.values()),
                "ways": {name: BYTES / seconds for name, seconds in shortest.items()},
                "threads": args.threads,
            }
        )
    )


if __name__ == "__main__":
    main()
