"""Whether other engines read exactly what Salient writes, and Salient what they write.

    python interop/run.py                          # everything, into .work/interop
    python interop/run.py --only weights awq       # one check of one checkpoint

The demo model is quantized in four ways: both formats, with zero points and without; random small
models of other families (`tiny_models.py`) in one. Each checkpoint then goes through its checks
(`checks.py`). Every peer runs in an environment of its own (`environment.sh`) and meets Salient on
disk only. Small models that AutoAWQ and llm-compressor have written go the other way.

    weights        the format's own library and Salient unpack the same float32 numbers, to the bit
    transformers4  Transformers 4 understands config and tokenizer as the source means them
    places         vLLM's loader has a place for every tensor and fills every one; its experts hold
                   what we wrote, bit by bit. Needs no kernel, which experts have on few CPUs
    vllm           vLLM, told to complain of a missing tensor, loads the checkpoint and computes
                   what our dequantized model computes
    serves         `salient serve --engine vllm` starts vLLM, names its kernel, answers, tells of a
                   kill and leaves nothing behind; what cannot work is refused before the start
    greedy         the same greedy prompts: `salient generate`, our server, and vLLM behind it
    lm-eval        lm-evaluation-harness gets the same log-probabilities, choices and scores from
                   Salient's engine as from its own model of the dequantized checkpoint
    foreign        Salient's runtime computes, from what a peer has written, what the weights mean
                   that the peer's own library unpacks

Exit codes: 0 all passed, 1 some check failed, 2 an environment could not be made.
"""

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import checks
import salient
from checks import Case, EnvironmentMissing, Outcome, PeerError, say
from greedy_parity import greedy_parity
from lm_eval_parity import lm_eval_parity
from reads_foreign_checkpoints import reads_foreign
from salient import api
from salient.core.errors import SalientError
from salient.core.scheme import parse_scheme
from tiny_models import tiny_model
from vllm_serves import serves

SEQUENCE_LENGTH = 256
CHECKS = {
    **checks.CHECKS,
    "serves": serves,
    "greedy": greedy_parity,
    "lm-eval": lm_eval_parity,
    "foreign": reads_foreign,
}
EVERY = ("weights", "transformers4", "places", "vllm")
WITHOUT_KERNEL = ("weights", "places")  # vLLM computes 4-bit experts on a CPU only with AMX
OTHERS = ("weights", "foreign")


@dataclass(frozen=True)
class Made:
    """How a checkpoint is made, and the checks that it goes through. Models: see `model_of`.

    dtype: the 16-bit type of model, checkpoint, and vLLM
    writer: the script by which a peer writes the checkpoint; '' for Salient
    """

    model: str
    scheme: str
    format: str
    checks: tuple[str, ...] = EVERY
    dtype: str = "float16"
    writer: str = ""


CHECKPOINTS = {
    "awq": Made(checks.MODEL, "w4-g64", "awq", (*EVERY, "serves", "greedy", "lm-eval")),
    "awq-sym": Made(checks.MODEL, "w4-g64-sym", "awq"),
    "compressed-tensors": Made(checks.MODEL, "w4-g64", "compressed-tensors"),
    "compressed-tensors-sym": Made(checks.MODEL, "w4-g64-sym", "compressed-tensors"),
    "qwen3": Made("qwen3", "w4-g128", "awq", ("weights", "places", "vllm")),
    # vLLM refuses Gemma 3 in float16
    "gemma3": Made("gemma3_text", "w4-g128", "awq", ("weights", "places", "vllm"), "bfloat16"),
    "qwen3-moe": Made("qwen3_moe", "w4-g128", "awq", WITHOUT_KERNEL),
    "qwen3-moe-ct": Made("qwen3_moe", "w4-g128", "compressed-tensors", WITHOUT_KERNEL),
    "mixtral": Made("mixtral", "w4-g128", "awq", WITHOUT_KERNEL),
    "deepseek-v3": Made("deepseek_v3", "w4-g64", "awq", WITHOUT_KERNEL),
    "by-autoawq": Made("llama", "w4-g64", "awq", OTHERS, writer="autoawq_writes.py"),
    "by-llmcompressor": Made(
        "llama", "w4-g64", "compressed-tensors", OTHERS, writer="llmcompressor_writes.py"
    ),
    "by-llmcompressor-sym": Made(
        "llama", "w4-g128-sym", "compressed-tensors", OTHERS, writer="llmcompressor_writes.py"
    ),
}


def main() -> int:
    """Make environments and checkpoints, check, report; the exit code."""
    given = parse()
    only = set(given.only)
    chosen = [check for check in CHECKS if check in only] or list(CHECKS)
    names = [name for name in CHECKPOINTS if name in only] or list(CHECKPOINTS)
    try:
        # Before any work: a missing environment is to be told now, not after minutes.
        for environment in needed(chosen, names):
            checks.environment(environment)
    except EnvironmentMissing as error:
        print(error, file=sys.stderr)
        return 2
    outcomes = [o for name in names for o in outcomes_of(name, chosen, given.work, given.samples)]
    passed = all(outcome.passed for outcome in outcomes)
    document = as_json(given.samples, outcomes)
    (given.work / "interop.json").write_text(document + "\n", "utf-8")
    if given.json:
        print(document)
    else:
        Console().print(table(outcomes))
    return 0 if passed else 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path(".work/interop"), help="folder for all that is written"
    )
    parser.add_argument("--samples", type=int, default=4, help="calibration samples")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        choices=[*CHECKS, *CHECKPOINTS],
        help=f"these checks or checkpoints alone: {', '.join([*CHECKS, *CHECKPOINTS])}",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document, no table")
    return parser.parse_args()


def needed(chosen: list[str], names: list[str]) -> list[str]:
    """The environments that these checks of these checkpoints run in."""
    pairs = {(c, CHECKPOINTS[n].format) for n in names for c in CHECKPOINTS[n].checks}
    return sorted({checks.environment_of(*pair) for pair in pairs if pair[0] in chosen})


def outcomes_of(name: str, chosen: list[str], work: Path, samples: int) -> list[Outcome]:
    """Make the checkpoint `name`, then run the chosen checks on it. An error is an outcome."""
    try:
        written = by_peer if CHECKPOINTS[name].writer else quantized
        case = written(name, work, samples)
    except (PeerError, SalientError) as error:
        return [Outcome("quantize", name, passed=False, said=str(error))]
    outcomes = []
    for check in (check for check in chosen if check in CHECKPOINTS[name].checks):
        try:
            outcomes.append(CHECKS[check](case))
        except (PeerError, SalientError) as error:
            outcomes.append(Outcome(check, name, passed=False, said=str(error)))
    return outcomes


def quantized(name: str, work: Path, samples: int) -> Case:
    """The checkpoint `name`: the one that is there, unless Salient has changed since."""
    made = CHECKPOINTS[name]
    folder = work / name / f"{samples}x{SEQUENCE_LENGTH}"
    case = Case(name, made.format, folder, work / name, made.dtype)
    case.work.mkdir(parents=True, exist_ok=True)
    say(f"{name}: quantizing {made.model} to {made.scheme}")
    evidence = case.folder / "salient.json"
    written = evidence.stat().st_mtime if evidence.is_file() else 0.0
    changed = max(p.stat().st_mtime for p in Path(salient.__file__).parent.rglob("*.py"))
    api.quantize(
        model_of(made, work),
        str(case.folder),
        scheme=made.scheme,
        format=made.format,
        samples=samples,
        sequence_length=SEQUENCE_LENGTH,
        fresh=written < changed,
    )
    return case


def by_peer(name: str, work: Path, samples: int) -> Case:
    """The checkpoint `name` as a peer writes it, anew; it rounds plainly, without samples."""
    del samples
    made, scheme = CHECKPOINTS[name], parse_scheme(CHECKPOINTS[name].scheme)
    case = Case(name, made.format, work / name / "checkpoint", work / name, made.dtype)
    case.work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(case.folder, ignore_errors=True)
    options = ["--group-size", scheme.group_size, *(["--symmetric"] * scheme.symmetric)]
    checks.peer(case, "weights", made.writer, model_of(made, work), case.folder, *options)
    return case


def model_of(made: Made, work: Path) -> str:
    """The demo model, or the folder of the random model of a family."""
    if made.model == checks.MODEL:
        return made.model
    return str(tiny_model(made.model, work / "models" / made.model, made.dtype))


def as_json(samples: int, outcomes: list[Outcome]) -> str:
    """All that was found, as one JSON document."""
    data: dict[str, Any] = {
        "model": checks.MODEL,
        "samples": samples,
        "sequence_length": SEQUENCE_LENGTH,
        "bounds": {
            "near_tie": checks.NEAR_TIE,
            "mean_logprob_difference": checks.LOGPROB_MEAN,
            "largest_logprob_difference": checks.LOGPROB_LARGEST,
        },
        "passed": all(outcome.passed for outcome in outcomes),
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    # JSON has no NaN and no infinity: null stands for them.
    finite = json.loads(json.dumps(data), parse_constant=lambda _: None)
    return json.dumps(finite, indent=2, ensure_ascii=False)


def table(outcomes: list[Outcome]) -> Table:
    """All that was found, for people."""
    made = Table(
        "check", "checkpoint", "result", "figures", title="Read by other engines, and by ours"
    )
    for outcome in outcomes:
        result = Text("passed", "green") if outcome.passed else Text("FAILED", "bold red")
        made.add_row(outcome.check, outcome.checkpoint, result, Text(outcome.said))
    return made


if __name__ == "__main__":
    sys.exit(main())
