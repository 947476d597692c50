"""Perplexity of WikiText-2 of a real Llama, quantized to w4-g128, against the published figures.

    pip install 'salient-awq[data]'
    .venv/bin/python benchmarks/published_quality.py meta-llama/Meta-Llama-3-8B --effort best
    .venv/bin/python benchmarks/published_quality.py ~/models/Llama-2-7b-hf --device cuda

For who has the weights (16 GB of files for 8 billion parameters); the other benchmarks need none.
Measured as in the papers: all of WikiText-2's test part in windows of 2048 tokens. The calibration
is the built-in one, which has no text of WikiText. The bars: Llama-3-8B at most 6.40 (16-bit 6.14,
AWQ 6.54), Llama-2-7B at most 5.54 (5.47 and 5.60). Writes WORK/published.json. Exit code 1 if the
bar is missed, 2 if the model is none of them.
"""

import argparse
import json
from pathlib import Path

from machine import conditions
from salient import api
from salient.core.records import to_json
from salient.models.model_folder import model_folder
from salient.validate.likelihood.result import LikelihoodResult

SCHEME = "w4-g128"
BARS = {"Llama-3-8B": 6.40, "Llama-2-7B": 5.54}


def main() -> int:
    """Quantize, measure, compare; returns the exit code."""
    options = parse()
    name = model_folder(options.model).name
    out = options.work / f"{name}-{SCHEME}-{options.effort}"
    options.work.mkdir(parents=True, exist_ok=True)
    api.quantize(options.model, out, scheme=SCHEME, effort=options.effort, device=options.device)
    result = api.evaluate(
        out,
        reference=options.model,
        text=["wikitext2"],
        protocol="classic",
        device=options.device,
    )
    likelihood = result.measured.likelihood
    assert isinstance(likelihood, LikelihoodResult), "the stage was selected"
    rows = [row for row in likelihood.published if row.model in BARS]
    data = {**conditions(), "effort": options.effort, "published": to_json(tuple(rows))}
    (options.work / "published.json").write_text(json.dumps(data, indent=2) + "\n")
    for row in rows:
        print(row.summary)
        measured, bar = row.measured_quantized, BARS[row.model]
        if measured is not None:
            verdict = "met" if measured <= bar else "MISSED"
            print(f"{row.model}: {measured:.3f}, at most {bar}: {verdict}")
            return int(measured > bar)
    print(f"{name} has the shape of none of {', '.join(BARS)}.")
    return 2


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", help="folder or Hub id of Llama-3-8B or Llama-2-7B, 16-bit")
    parser.add_argument("--effort", default="best")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, default=Path(".work/bench"))
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
