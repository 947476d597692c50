"""Speed of Transformers on a 16-bit model, with a minimal loop instead of `generate`.

Runs in Salient's environment, or any with Transformers 5. DynamicCache and StaticCache are tried on
a few tokens, and the faster one is measured.

    .venv/bin/python benchmarks/peers/transformers_speed.py --model FOLDER --ids IDS.json
"""

import argparse
import statistics
import time
from typing import Any

import speed
from speed import Speed

TRIAL = 8  # tokens of the trial of a cache


def main() -> None:
    """Load, select the cache, measure, print."""
    parser = speed.parser_of(__doc__)
    parser.add_argument("--dtype", choices=("bfloat16", "float32", "float16"), default="bfloat16")
    args = parser.parse_args()
    speed.use_threads(args.threads)

    import torch
    import transformers

    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
    loop = Loop(model, args)
    with torch.inference_mode():
        for kind in CACHES:
            loop.decode(kind, 2)  # warms up
        trials = {kind: statistics.median(loop.decode(kind, TRIAL)) for kind in CACHES}
        kind = min(trials, key=trials.__getitem__)
        prefill = [loop.prefill(kind)[2] for _ in range(args.repeats)]
        decode = loop.decode(kind, args.new_tokens)
    how = {
        "weights": "16 bits" if dtype.itemsize == 2 else "32 bits",
        "dtype": args.dtype,
        "attention": model.config._attn_implementation,
        "cache": kind,
        "decode_by_cache": trials,
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "torch_cpu": torch.backends.cpu.get_cpu_capability(),
    }
    speed.print_figures(args, Speed("transformers", decode, prefill, how=how))


class Loop:
    """Greedy decoding."""

    def __init__(self, model: Any, args: argparse.Namespace):
        import torch

        self.model, self.args = model, args
        self.prompt = torch.tensor([speed.prompts(args)[0]])

    def prefill(self, kind: str) -> tuple[Any, Any, float]:
        """The cache and next token [1, 1] after the prompt, and the seconds that it took."""
        cache = CACHES[kind](self.model, self.args.prompt_tokens + self.args.new_tokens + 1)
        start = time.perf_counter()
        token = self.step(self.prompt, cache)
        return cache, token, time.perf_counter() - start

    def decode(self, kind: str, count: int) -> list[float]:
        """Seconds from each token to the next."""
        cache, token, _ = self.prefill(kind)
        times = []
        for _ in range(count):
            token = self.step(token, cache)
            times.append(time.perf_counter())
        return speed.gaps(times)

    def step(self, tokens: Any, cache: Any) -> Any:
        """The most likely token [1, 1] after `tokens` [1, count]."""
        out = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        token.item()  # as a caller reads it
        return token


def _growing(model: Any, _length: int) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def _fixed(model: Any, length: int) -> Any:
    from transformers import StaticCache

    return StaticCache(config=model.config, max_cache_len=length)


CACHES = {"DynamicCache": _growing, "StaticCache": _fixed}


if __name__ == "__main__":
    main()
