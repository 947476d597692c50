"""Quantize the embedded real model, measure it, and generate from the checkpoint.

    python examples/demo.py OUTPUT_FOLDER

It does what these commands do: `salient quantize smollm2-135m`, `salient evaluate`, and a few
tokens of greedy text from the dequantized checkpoint.
"""

import sys
import time
from pathlib import Path

from rich.console import Console

import salient

MODEL = "smollm2-135m"
PROMPT = "What is the capital of France, and what is it known for?"


def main(folder: str, model: str = MODEL, scheme: str = "w4-g64") -> None:
    """Run the demo, writing the checkpoint below `folder`."""
    console, started = Console(), time.monotonic()
    progress = line_printer(console)
    Path(folder).mkdir(parents=True, exist_ok=True)
    output = f"{folder}/{Path(model).name}-{scheme}"
    console.rule("quantize")
    salient.quantize(
        model, output, scheme=scheme, samples=32, fresh=True, progress=progress
    ).report.show(console)
    console.rule("evaluate on held-out texts")
    salient.evaluate(output, reference=model, samples=8, progress=progress).report.show(console)
    console.rule("generate from the checkpoint")
    loaded, tokenizer = salient.load(output)
    messages = [{"role": "user", "content": PROMPT}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    answer = loaded.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
    console.print(f"{PROMPT}\n[bold]{tokenizer.decode(answer, skip_special_tokens=True)}[/bold]")
    console.print(f"The whole demo took {time.monotonic() - started:.0f} s.")


def line_printer(console: Console) -> salient.Progress:
    """A progress that prints a line for each step, which also reads well in a log."""

    def step(done: int, total: int, action: str, note: str) -> None:
        if note or done == total:
            console.print(f"[{done}/{total}] {action}  {note}", markup=False, highlight=False)

    return salient.Progress(step)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".work/demo")
