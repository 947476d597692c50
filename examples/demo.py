"""The whole way in one script: quantize the embedded real model, measure it, let it speak.

    python examples/demo.py OUTPUT_FOLDER

It does what these commands do: `salient quantize smollm2-135m`, `salient evaluate`, and a few
tokens of greedy text from the dequantized checkpoint.
"""

import sys
import time
from pathlib import Path

from rich.console import Console

from salient import api

MODEL = "smollm2-135m"
PROMPT = "What is the capital of France, and what is it known for?"


def main(folder: str) -> None:
    """Run the demo, writing the checkpoint below `folder`."""
    console, started = Console(), time.monotonic()
    Path(folder).mkdir(parents=True, exist_ok=True)
    output = f"{folder}/{MODEL}-w4-g64"
    console.rule("quantize")
    report = api.quantize(
        MODEL, output, scheme="w4-g64", samples=32, fresh=True, progress=line_printer(console)
    )
    report.show(console)
    console.rule("evaluate on held-out texts")
    api.evaluate(output, reference=MODEL, windows=8, progress=line_printer(console)).show(console)
    console.rule("generate from the checkpoint")
    model, tokenizer = api.load(output)
    messages = [{"role": "user", "content": PROMPT}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    answer = model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
    console.print(f"{PROMPT}\n[bold]{tokenizer.decode(answer, skip_special_tokens=True)}[/bold]")
    console.print(f"The whole demo took {time.monotonic() - started:.0f} s.")


def line_printer(console: Console) -> api.Progress:
    """A progress that prints a line for each step, which also reads well in a log."""

    def step(done: int, total: int, action: str, note: str) -> None:
        if note or done == total:
            console.print(f"[{done}/{total}] {action}  {note}", markup=False, highlight=False)

    return api.Progress(step)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".work/demo")
