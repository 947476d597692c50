"""lm-evaluation-harness and Salient's tasks on the same checkpoint."""

import json

from checks import MODEL, Case, Outcome, peer

# Log-probabilities of a continuation, nats. The kernels round activations to 15 bits a group, keys
# and values to float16: 0.008 at most on a CPU with AVX2. In float32 only the order of sums
# differs: 0.0001. A CPU with AMX exceeded the first bound (0.0997); its cause is not known yet.
BOUNDS = {"default": 0.02, "float32": 1e-3}


def lm_eval_parity(case: Case) -> Outcome:
    """HFLM on the dequantized checkpoint and Salient's engine must give the same log-probabilities,
    choices and task scores."""
    out = case.work / "lm_eval.json"
    work = case.work / "lm_eval"
    peer(case, "lm-eval", "lm_eval_scores.py", case.folder, out, work, "--reference", MODEL)
    figures = json.loads(out.read_text("utf-8"))
    runs, tasks = figures["choices"]["runs"], figures["tasks"]
    far = [name for name, bound in BOUNDS.items() if not runs[name]["largest"] < bound]
    # A different choice is a tie if the error of both sums may explain it.
    others = [
        each
        for name, bound in BOUNDS.items()
        for each in runs[name]["otherwise"]
        if each["gap"] > 2 * bound
    ]
    alike = tasks["same_examples"] and tasks["right"][0] == tasks["right"][1]
    apart = ", ".join(f"{runs[name]['largest']:.4f} {name}" for name in BOUNDS)
    summary = (
        f"{figures['choices']['continuations']} log-probabilities differ by at most {apart}; "
        f"{len(others)} of {figures['choices']['examples']} choices differ; of {tasks['examples']} "
        f"examples of {len(tasks['kinds'])} tasks right: {tasks['right'][0]} and "
        f"{tasks['right'][1]}"
    )
    return Outcome("lm-eval", case.name, alike and not far and not others, summary, figures)
