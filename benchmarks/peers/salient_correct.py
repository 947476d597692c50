"""Correctness of Salient's runtime, to be checked before its speed.

The reference is Transformers' forward in float32 on the dequantized weights, on held-out text. The
engine's runner computes half of each window as a prompt and the rest token by token, with all
windows in a batch, in float32 and in bfloat16. Greedy answers must be the same with and without
fused blocks.

    .venv/bin/python benchmarks/peers/salient_correct.py --model CHECKPOINT
"""

import argparse
import gc
import json
import sys
from pathlib import Path
from typing import Any

import speed

sys.path.append(str(Path(__file__).resolve().parents[1]))

PROMPTS = (
    "The capital of France is",
    "Water boils at a lower temperature in the mountains because",
    "Once upon a time, in a village by the sea, there lived",
    "To sort a list of numbers in Python, you can",
)


def main() -> None:
    """Compare; print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--window-length", type=int, default=256)
    parser.add_argument("--answer-tokens", type=int, default=64)
    args = parser.parse_args()
    speed.use_threads(args.threads)

    import torch

    from salient.core.corpus import builtin
    from texts import windows, without_shared_text

    torch.set_num_threads(args.threads)
    model, tokenizer = reference(args.model)
    texts = {"heldout": without_shared_text("heldout", builtin("heldout"))}
    ids = windows(texts, tokenizer, args.windows, args.window_length)["heldout"]
    with torch.inference_mode():
        expected = model(ids, use_cache=False).logits[:, args.window_length // 2 - 1 :]
    del model
    figures: dict[str, Any] = {"tokens": expected.shape[0] * expected.shape[1]}
    for dtype in ("float32", "bfloat16"):
        figures[dtype] = compared(args, dtype, ids, expected)
        gc.collect()
    fused, apart = (answers(args, fuse=fuse) for fuse in (True, False))
    figures["answers"] = len(fused)
    figures["same_answers"] = sum(a == b for a, b in zip(fused, apart, strict=True))
    print(json.dumps(figures))


def reference(checkpoint: str) -> tuple[Any, Any]:
    """Transformers' model of the dequantized weights in float32, and its tokenizer."""
    from salient import api

    return api.load(checkpoint, dtype="float32")


def compared(args: argparse.Namespace, dtype: str, ids: Any, expected: Any) -> dict[str, Any]:
    """KL and agreement of the runner's logits with `expected` [windows, tokens, vocab]."""
    import torch

    from salient.core.metrics import LogitsComparison, compare_logits
    from salient.runtime.load_engine import EngineOptions, load

    options = EngineOptions(
        device="cpu", dtype=dtype, context_length=args.window_length, slots=len(ids)
    )
    runner = load(args.model, options).engine.runner
    half, rows = args.window_length // 2, range(len(ids))
    steps = [torch.stack([runner.prefill(r, ids[r, :half].tolist(), 0) for r in rows])]
    for at in range(half, args.window_length):
        steps.append(runner.decode(list(rows), ids[:, at].tolist(), [at] * len(ids)))
    logits = torch.stack(steps, 1)
    total = LogitsComparison()
    for row in rows:
        total.add(compare_logits(expected[row], logits[row], ids[row, half - 1 :]))
    return {"kl": total.kl, "top1": total.top1, "runner": runner.how}


def answers(args: argparse.Namespace, *, fuse: bool) -> list[list[int]]:
    """The greedy answers to PROMPTS in float32."""
    from salient.runtime.load_engine import EngineOptions, load
    from salient.runtime.sampling_params import SamplingParams

    options = EngineOptions(
        device="cpu", dtype="float32", fuse=fuse, context_length=256, slots=len(PROMPTS)
    )
    opened = load(args.model, options)
    prompts = [opened.model.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    sampling = SamplingParams(max_new_tokens=args.answer_tokens, ignore_eos=True)
    return [answer.tokens for answer in opened.engine.generate(prompts, sampling)]


if __name__ == "__main__":
    main()
