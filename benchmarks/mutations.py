"""2,000 folders gone wrong: none may become a wrong checkpoint in silence.

    .venv/bin/python benchmarks/mutations.py [--count 2000] [--seed 1] [--verbose]

Each changes one tensor or one key of config.json of a tiny model of 12 families
(tests/helpers/source_mutations.py). A run refuses it before its first block, in the words that
--dry-run uses, or its checkpoint agrees with the source: both read by Transformers, the codes by a
dequantizer of the tests' own. The search is cut to 9 scales: the law holds for any. Prints what
went wrong; exit code 1 if anything did. About 30 minutes on one core.
"""

import argparse
import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
import transformers

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.source_mutations import KINDS, base_folder, mutate, outcome
from helpers.toy_models import toy_text
from salient.awq import search


def main() -> int:
    """Run the mutations; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--verbose", action="store_true", help="print every outcome")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.CRITICAL)
    search.COARSE = [(a, b) for a in (0.0, 0.5, 1.0) for b in (0.0, 0.5, 1.0)]
    search.FINE = (0.0,)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        text = toy_text(home)
        folders = {kind: base_folder(kind, home) for kind in KINDS}
        for number in range(options.first, options.first + options.count):
            kind = KINDS[number % len(KINDS)]
            folder = home / "changed"
            for old in (folder, home / "out", home / "out.partial"):
                shutil.rmtree(old, ignore_errors=True)
            shutil.copytree(folders[kind], folder)
            change = mutate(folder, random.Random(f"{options.seed}:{number}"))
            result = outcome(folder, change, home / "out", text)
            name = "wrong" if result.fault else "refused" if result.refusal else "agrees"
            counts[name] += 1
            if result.fault or options.verbose:
                reason = result.fault or result.refusal or f"KL {result.kl:.4f}"
                print(f"{number} {kind}: {change}: {name}: {reason}", flush=True)
    print(f"{options.count} mutations over {len(KINDS)} families: {dict(counts)}")
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
