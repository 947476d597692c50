"""Time of a product on a GPU, with its weight read from memory each time.

A weight used a moment ago is in the L2 cache; a model's weights are not. So the calls alternate
between copies that together are several times larger than the L2. The calls are captured in one
graph, which excludes the gaps of Python between launches, as in an engine. Medians over replays, by
the GPU's clock.
"""

import statistics
from collections.abc import Callable, Sequence

import torch

L2S = 4  # size of all copies, in sizes of the L2
CALLS = 32  # in a graph, at least
REPLAYS = 25
COPY_BYTES = 2**31


def microseconds(calls: Sequence[Callable[[], object]]) -> float:
    """Median time of one of `calls`, the same product with different weights."""
    for call in calls:
        call()  # compiles and creates handles, outside of the graph
    rounds = -(-CALLS // len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for call in calls:
                call()
    return _median(graph.replay) / (rounds * len(calls))


def _median(run: Callable[[], object]) -> float:
    """Median microseconds of `run`, after three warm-up runs."""
    times = []
    for number in range(3 + REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        if number >= 3:
            times.append(1000 * start.elapsed_time(end))
    return statistics.median(times)


def copies(weight_bytes: int) -> int:
    """How many copies of a weight exceed the L2; at least two."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, -(-L2S * cache // weight_bytes))


def copy_bandwidth() -> float:
    """Bytes per second of a large copy in the GPU's memory: read plus written."""
    source = torch.randn(COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / (_median(lambda: target.copy_(source)) * 1e-6)


def decode_tokens_per_second(generate: Callable[[int], object], tokens: int = 128) -> float:
    """Decoding speed of `generate(tokens)`.

    The difference of two lengths excludes the prompt.
    """
    generate(tokens)  # compiles and captures
    short, long = (_median(lambda n=n: generate(n)) for n in (tokens, 2 * tokens))
    return tokens / ((long - short) * 1e-6)
