"""Whether lm-evaluation-harness and Salient's tasks say the same of a checkpoint."""

import json

from checks import MODEL, Case, Outcome, peer

# Log-probabilities of a continuation, nats. Seen at most: 0.008 and 0.0001. The kernels round
# activations to 15 bits a group, and keys and values to float16; in float32 only sums differ.
BOUNDS = {"as it runs": 0.02, "float32": 1e-3}


def lm_eval_parity(case: Case) -> Outcome:
    """The library's own model of the dequantized checkpoint and our engine must give the same
    log-probabilities, make the same choices and score the same in the library's tasks."""
    out = case.work / "lm_eval.json"
    kept = case.work / "lm_eval"
    peer(case, "lm-eval", "lm_eval_scores.py", case.folder, out, kept, "--reference", MODEL)
    figures = json.loads(out.read_text("utf-8"))
    runs, tasks = figures["choices"]["runs"], figures["tasks"]
    far = [name for name, bound in BOUNDS.items() if not runs[name]["largest"] < bound]
    # Another choice is a tie where both sums may be off by the bound.
    others = [
        each
        for name, bound in BOUNDS.items()
        for each in runs[name]["otherwise"]
        if each["gap"] > 2 * bound
    ]
    alike = tasks["same_examples"] and tasks["right"][0] == tasks["right"][1]
    apart = ", ".join(f"{runs[name]['largest']:.4f} {name}" for name in BOUNDS)
    said = (
        f"{figures['choices']['continuations']} log-probabilities differ by at most {apart}; "
        f"{len(others)} of {figures['choices']['examples']} choices differ; of {tasks['examples']} "
        f"examples of {len(tasks['kinds'])} tasks right: {tasks['right'][0]} and "
        f"{tasks['right'][1]}"
    )
    return Outcome("lm-eval", case.name, alike and not far and not others, said, figures)
