"""Speed of Salient's runtime: the whole engine, with sampling and text.

Runs in Salient's environment. Figures are from `TokenSequence.times`, the times of the caller. Each
repeat of the prompt begins with another token, so no prefix is reused.

    .venv/bin/python benchmarks/peers/salient_speed.py --model CHECKPOINT --ids IDS.json
"""

import argparse
import itertools
import time
from typing import Any

import speed
from speed import Speed


def main() -> None:
    """Load, warm up, measure, print."""
    parser = speed.parser_of(__doc__)
    parser.add_argument("--dtype", default="auto", help="dtype of the activations")
    parser.add_argument("--together", type=int, default=8, help="sequences in one batch (0: none)")
    args = parser.parse_args()
    speed.use_threads(args.threads)
    speed.print_figures(args, measured(args))


def measured(args: argparse.Namespace) -> Speed:
    """All figures of the checkpoint."""
    import torch

    from salient.runtime.load_engine import EngineOptions, load

    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    context = args.prompt_tokens + args.new_tokens + 1
    options = EngineOptions(
        device="cpu", dtype=args.dtype, context_length=context, slots=max(args.together, 1)
    )
    opened = load(args.model, options)
    loading = time.perf_counter() - start
    ids = speed.prompts(args)
    fresh = (speed.renewed(ids[0], number) for number in itertools.count(1))
    alone(opened.engine, next(fresh), 8)  # warms up
    first = [alone(opened.engine, next(fresh), 1) for _ in range(args.repeats)]
    running = alone(opened.engine, next(fresh), args.new_tokens)
    several = [speed.renewed(row, 1000 + n) for n, row in enumerate(ids[: args.together])]
    steps = together(opened.engine, several, args.new_tokens) if several else []
    return Speed(
        "salient",
        speed.gaps(running.times),
        [answer.seconds_to_first for answer in first],
        steps,
        args.together,
        {**described(opened), "seconds_load": loading},
    )


def alone(engine: Any, prompt: list[int], count: int) -> Any:
    """One answer of `count` tokens to a prompt of which no prefix is cached."""
    answer = engine.generate([prompt], sampling(count))[0]
    assert answer.reused == 0, answer.reused
    assert len(answer.tokens) == count, answer.finished
    return answer


def together(engine: Any, prompts: list[list[int]], count: int) -> list[float]:
    """Seconds of each step in which all `prompts` decode."""
    answers = engine.generate(prompts, sampling(count))
    started = max(answer.times[0] for answer in answers)
    ended = min(answer.times[-1] for answer in answers)
    times = [at for at in answers[-1].times if started <= at <= ended]
    if len(times) < 2:
        raise SystemExit(f"{count} new tokens are too few for {len(prompts)} sequences to overlap")
    return speed.gaps(times)


def sampling(count: int) -> Any:
    """Greedy sampling of `count` tokens."""
    from salient.runtime.sampling_params import SamplingParams

    return SamplingParams(max_new_tokens=count, temperature=0.0, ignore_eos=True)


def described(opened: Any) -> dict[str, Any]:
    """Kernels, runner and versions, and the bytes of weights that a token reads."""
    from importlib.metadata import version

    from salient.kernels.cpu_library import Library, load_library

    library = load_library()
    return {
        "weights": "4 bits" if opened.model.kernels else "16 bits",
        "dtype": str(opened.model.dtype).removeprefix("torch."),
        "runner": opened.engine.runner.how,
        "kernels": {f"{name}: {why}": n for (name, why), n in opened.model.kernels.items()},
        "instructions": library.instructions if isinstance(library, Library) else library,
        "weight_bytes": weight_bytes(opened.model),
        "versions": {name: version(name) for name in ("salient-awq", "torch", "transformers")},
    }


def weight_bytes(model: Any) -> int:
    """Bytes of the packed weights and the head."""
    from salient.runtime.linear import QuantLinear

    modules = model.module.modules()
    packed = sum(module.packed.bytes for module in modules if isinstance(module, QuantLinear))
    head = model.module.get_output_embeddings().weight
    return packed + head.numel() * head.element_size()


if __name__ == "__main__":
    main()
