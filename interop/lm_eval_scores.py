"""Scores of lm-evaluation-harness by Salient's engine and by HFLM.

Runs in the environment `lmeval`, which has both. HFLM runs the dequantized checkpoint in float32.

    choices   log-probabilities of the choices of the bundled sets: by HFLM, by the engine with its
              default options, and by the engine with float32 keys, values and products, which
              differs only in the order of sums
    tasks     two custom tasks, one multiple-choice and one generated, by HFLM and as
              `lm-eval:FILE.yaml` of `salient validate --tasks`

    PYTHON=$(interop/environment.sh lmeval)
    $PYTHON interop/lm_eval_scores.py CHECKPOINT OUT.json WORK --reference smollm2-135m
"""

import argparse
import json
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM

from salient.models.model_folder import load_dequantized
from salient.runtime.load_engine import EngineOptions, load
from salient.runtime.loglikelihood import Continuations, encode_choices
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import open_pair
from salient.validate.tasks.answering import Examinee
from salient.validate.tasks.lm_eval import answer_tasks, find_tasks, read_samples
from salient.validate.tasks.scoring import Example, choose
from salient.validate.tasks.task_sets import read_tasks

SETS = ("knowledge", "language", "code", "reasoning")
NEW_TOKENS = 8
CONTEXT = 512
RUNS = {
    "default": EngineOptions(device="cpu", slots=16, context_length=CONTEXT),
    "float32": EngineOptions(
        device="cpu", slots=16, context_length=CONTEXT, kv_dtype="float32", kernel="dense"
    ),
}


def main() -> None:
    """Score with both; write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("work", type=Path, help="folder for task files and the cache")
    parser.add_argument("--reference", required=True)
    parser.add_argument("--examples", type=int, default=15, help="examples of each set")
    arguments = parser.parse_args()
    model, tokenizer = load_dequantized(arguments.checkpoint)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=8)
    started = time.monotonic()
    examples = [e for name in SETS for e in read_tasks(name).examples[: arguments.examples]]
    result = {
        "choices": choices(arguments.checkpoint, theirs, examples),
        "tasks": tasks(arguments, theirs),
        "versions": {name: version(name) for name in ("lm_eval", "transformers", "torch")},
        "seconds": time.monotonic() - started,
    }
    arguments.out.write_text(json.dumps(result), "utf-8")


def choices(checkpoint: str, theirs: HFLM, examples: list[Example]) -> dict[str, Any]:
    """Compare log-probabilities and choices of HFLM and the engine."""
    pairs = [(e.context, text) for e in examples for text in e.continuations]
    scores = iter(theirs.loglikelihood([Instance("loglikelihood", {}, p, 0) for p in pairs]))
    wanted = [[next(scores) for _ in e.choices] for e in examples]
    figures = {"examples": len(examples), "continuations": len(pairs), "runs": {}}
    for name, options in RUNS.items():
        engine = load(checkpoint, options).engine
        requests = [encode_choices(engine.tokenizer, e.context, e.continuations) for e in examples]
        result = Continuations(engine).score(requests)
        figures["runs"][name] = compared(examples, wanted, result)
    return figures


def compared(examples: list[Example], wanted: list[Any], result: list[Any]) -> dict[str, Any]:
    """Differences of log-probabilities, and the examples with different choices."""
    apart, greedy, otherwise = [], 0, []
    for example, theirs, ours in zip(examples, wanted, result, strict=True):
        lengths = [len(choice.encode()) for choice in example.choices]
        their_sums, our_sums = [logprob for logprob, _ in theirs], [o.logprob for o in ours]
        apart += [abs(a - b) for a, b in zip(their_sums, our_sums, strict=True)]
        greedy += sum(flag != o.greedy for (_, flag), o in zip(theirs, ours, strict=True))
        picks = [choose(sums, lengths, normalized=False) for sums in (their_sums, our_sums)]
        if picks[0] != picks[1]:
            gap = abs(their_sums[picks[0]] - their_sums[picks[1]])
            otherwise.append({"id": example.id, "gap": gap})
    return {
        "largest": max(apart),
        "mean": sum(apart) / len(apart),
        "greedy_differs": greedy,
        "otherwise": otherwise,
    }


def tasks(arguments: argparse.Namespace, theirs: HFLM) -> dict[str, Any]:
    """Answers of HFLM and the engine to two local tasks."""
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    names = [str(path) for path in task_files(arguments.work, arguments.examples)]
    manager = find_tasks(names)
    pair = open_pair(arguments.checkpoint, arguments.reference, "cpu")
    examinee = Examinee(pair.checkpoint, ValidationCache(arguments.work / "cache"), "cpu", CONTEXT)
    ours, _ = answer_tasks(manager, names, examinee, None, lambda _: None)
    results = simple_evaluate(model=theirs, tasks=names, task_manager=manager, bootstrap_iters=0)[
        "samples"
    ]
    other = [row for task, samples in results.items() for row in read_samples(task, samples)[0]]
    return {
        "examples": len(ours),
        "same_examples": [e.id for e, _ in ours] == [e.id for e, _ in other],
        "right": [sum(answer.correct for _, answer in rows) for rows in (other, ours)],
        "otherwise": [
            {"id": example.id, "theirs": a.answer, "ours": b.answer}
            for (example, a), (_, b) in zip(other, ours, strict=True)
            if a != b
        ],
        "kinds": sorted({example.kind for example, _ in ours}),
    }


def task_files(work: Path, count: int) -> list[Path]:
    """A multiple-choice and a generated task, in the format of the library."""
    chosen = [e for name in SETS[:2] for e in read_tasks(name).examples[:count]]
    rows = [{"prompt": e.prompt, "choices": e.choices, "answer": e.answer} for e in chosen]
    write = read_tasks("arithmetic").examples[:count]
    sums = [{"prompt": e.prompt, "answer": e.expected[0]} for e in write]
    plain = {"dataset_path": "json", "test_split": "test", "doc_to_text": "{{prompt}}"}
    choice = {
        "task": "toy_choice",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    writing = {
        "task": "toy_sums",
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": NEW_TOKENS, "do_sample": False},
        "filter_list": [
            {
                "name": "plain",
                "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}],
            }
        ],
        "metric_list": [{"metric": "exact_match"}],
    }
    paths = []
    for task, lines in ((choice, rows), (writing, sums)):
        data = work / f"{task['task']}.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        path = work / f"{task['task']}.yaml"
        own = {**plain, **task, "dataset_kwargs": {"data_files": {"test": str(data.resolve())}}}
        path.write_text(yaml.safe_dump(own), "utf-8")
        paths.append(path)
    return paths


if __name__ == "__main__":
    main()
