"""Test that other engines read Salient's checkpoints exactly, and Salient theirs.

    python interop/run.py                          # everything, into .work/interop
    python interop/run.py --only weights awq       # one check of one checkpoint

The demo model is quantized in both formats, with and without zero points; small random models of
other families (`tiny_models.py`) in one. Each checkpoint then passes its checks (`checks.py`).
Every peer runs in its own environment (`environment.sh`) and shares only files with Salient. For
the opposite direction, AutoAWQ and llm-compressor write small checkpoints.

    weights        the format's own library and Salient unpack the same float32 values, bit by bit
    transformers4  Transformers 4 reads config and tokenizer with the values of the source
    places         vLLM's loader uses every tensor and fills every parameter; experts have our
                   values, bit by bit. Needs no kernel, which few CPUs have for experts
    vllm           vLLM loads the checkpoint, with missing tensors as errors, and agrees with our
                   dequantized model
    serves         `salient serve --engine vllm` starts vLLM, names its kernel, answers, reports a
                   kill and leaves no process; it refuses before the start what cannot work
    greedy         the same greedy prompts by `salient generate`, our server, and vLLM
    drafts         vLLM's model for speculative decoding is filled from the layers that predict
                   further tokens, every row in its place
    scores         vLLM's scores by a reward model are ours, and prefer as the 16-bit model's do
    lm-eval        lm-evaluation-harness gets the same log-probabilities, choices and scores from
                   Salient's engine and from its own model of the dequantized checkpoint
    foreign        Salient's runtime on a peer's checkpoint agrees with the weights as the peer's
                   library unpacks them

Exit codes: 0 all passed, 1 some check failed, 2 an environment could not be created.
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
from checks import Case, EnvironmentMissing, Outcome, PeerError, log_step
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
USUAL = ("weights", "transformers4", "places", "vllm")
WITHOUT_KERNEL = ("weights", "places")  # vLLM computes 4-bit experts on a CPU only with AMX
DRAFTING = ("places", "drafts")
OTHERS = ("weights", "foreign")


@dataclass(frozen=True)
class Recipe:
    """How to write a checkpoint, and its checks. Models: see `model_of`.

    dtype: the 16-bit type of model, checkpoint, and vLLM
    writer: the peer's script that writes the checkpoint; '' for Salient
    """

    model: str
    scheme: str
    format: str
    checks: tuple[str, ...] = USUAL
    dtype: str = "float16"
    writer: str = ""


CHECKPOINTS = {
    "awq": Recipe(checks.MODEL, "w4-g64", "awq", (*USUAL, "serves", "greedy", "lm-eval")),
    "awq-sym": Recipe(checks.MODEL, "w4-g64-sym", "awq"),
    "compressed-tensors": Recipe(checks.MODEL, "w4-g64", "compressed-tensors"),
    "compressed-tensors-sym": Recipe(checks.MODEL, "w4-g64-sym", "compressed-tensors"),
    "qwen3": Recipe("qwen3", "w4-g128", "awq", ("weights", "places", "vllm")),
    # vLLM refuses Gemma 3 in float16
    "gemma3": Recipe("gemma3_text", "w4-g128", "awq", ("weights", "places", "vllm"), "bfloat16"),
    "qwen3-moe": Recipe("qwen3_moe", "w4-g128", "awq", WITHOUT_KERNEL),
    "qwen3-moe-ct": Recipe("qwen3_moe", "w4-g128", "compressed-tensors", WITHOUT_KERNEL),
    "mixtral": Recipe("mixtral", "w4-g128", "awq", WITHOUT_KERNEL),
    "deepseek-v3": Recipe("deepseek_v3", "w4-g64", "awq", WITHOUT_KERNEL),
    "deepseek_v3-mtp": Recipe("deepseek_v3-mtp", "w4-g64", "awq", DRAFTING, "bfloat16"),
    "glm4_moe-mtp": Recipe("glm4_moe-mtp", "w4-g64", "awq", DRAFTING, "bfloat16"),
    "glm4_moe-mtp-ct": Recipe("glm4_moe-mtp", "w4-g64", "compressed-tensors", DRAFTING, "bfloat16"),
    "qwen3-reward": Recipe("qwen3-reward", "w4-g128", "awq", ("weights", "scores")),
    "by-autoawq": Recipe("llama", "w4-g64", "awq", OTHERS, writer="autoawq_writes.py"),
    "by-llmcompressor": Recipe(
        "llama", "w4-g64", "compressed-tensors", OTHERS, writer="llmcompressor_writes.py"
    ),
    "by-llmcompressor-sym": Recipe(
        "llama", "w4-g128-sym", "compressed-tensors", OTHERS, writer="llmcompressor_writes.py"
    ),
}


def main() -> int:
    """Create environments and checkpoints, check, report; returns the exit code."""
    options = parse()
    only = set(options.only)
    selected = [check for check in CHECKS if check in only] or list(CHECKS)
    names = [name for name in CHECKPOINTS if name in only] or list(CHECKPOINTS)
    try:
        # Before any work: a missing environment fails now, not after minutes.
        for environment in needed(selected, names):
            checks.environment(environment)
    except EnvironmentMissing as error:
        print(error, file=sys.stderr)
        return 2
    outcomes = [
        o for name in names for o in outcomes_of(name, selected, options.work, options.samples)
    ]
    passed = all(outcome.passed for outcome in outcomes)
    document = as_json(options.samples, outcomes)
    (options.work / "interop.json").write_text(document + "\n", "utf-8")
    if options.json:
        print(document)
    else:
        Console().print(table(outcomes))
    return 0 if passed else 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, default=Path(".work/interop"), help="folder for all output"
    )
    parser.add_argument("--samples", type=int, default=4, help="calibration samples")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        choices=[*CHECKS, *CHECKPOINTS],
        help=f"only these checks or checkpoints: {', '.join([*CHECKS, *CHECKPOINTS])}",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of a table"
    )
    return parser.parse_args()


def needed(selected: list[str], names: list[str]) -> list[str]:
    """The environments of these checks of these checkpoints."""
    pairs = {(c, CHECKPOINTS[n].format) for n in names for c in CHECKPOINTS[n].checks}
    return sorted({checks.environment_of(*pair) for pair in pairs if pair[0] in selected})


def outcomes_of(name: str, selected: list[str], work: Path, samples: int) -> list[Outcome]:
    """Write the checkpoint `name` and run the selected checks. An error is an outcome."""
    try:
        write = write_by_peer if CHECKPOINTS[name].writer else write_by_salient
        case = write(name, work, samples)
    except (PeerError, SalientError) as error:
        return [Outcome("quantize", name, passed=False, summary=str(error))]
    outcomes = []
    for check in (check for check in selected if check in CHECKPOINTS[name].checks):
        try:
            outcomes.append(CHECKS[check](case))
        except (PeerError, SalientError) as error:
            outcomes.append(Outcome(check, name, passed=False, summary=str(error)))
    return outcomes


def write_by_salient(name: str, work: Path, samples: int) -> Case:
    """The checkpoint `name`; an existing one is reused unless Salient's code is newer."""
    recipe = CHECKPOINTS[name]
    folder = work / name / f"{samples}x{SEQUENCE_LENGTH}"
    case = Case(name, recipe.format, folder, work / name, recipe.dtype)
    case.work.mkdir(parents=True, exist_ok=True)
    log_step(f"{name}: quantizing {recipe.model} to {recipe.scheme}")
    evidence = case.folder / "salient.json"
    modified = evidence.stat().st_mtime if evidence.is_file() else 0.0
    changed = max(p.stat().st_mtime for p in Path(salient.__file__).parent.rglob("*.py"))
    api.quantize(
        model_of(recipe, work),
        str(case.folder),
        scheme=recipe.scheme,
        format=recipe.format,
        samples=samples,
        sequence_length=SEQUENCE_LENGTH,
        fresh=modified < changed,
    )
    return case


def write_by_peer(name: str, work: Path, samples: int) -> Case:
    """The checkpoint `name`, written again by a peer with rounding to nearest, without samples."""
    del samples
    recipe, scheme = CHECKPOINTS[name], parse_scheme(CHECKPOINTS[name].scheme)
    case = Case(name, recipe.format, work / name / "checkpoint", work / name, recipe.dtype)
    case.work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(case.folder, ignore_errors=True)
    options = ["--group-size", scheme.group_size, *(["--symmetric"] * scheme.symmetric)]
    checks.peer(case, "weights", recipe.writer, model_of(recipe, work), case.folder, *options)
    return case


def model_of(recipe: Recipe, work: Path) -> str:
    """The demo model, or the folder of the random model of a family."""
    if recipe.model == checks.MODEL:
        return recipe.model
    return str(tiny_model(recipe.model, work / "models" / recipe.model, recipe.dtype))


def as_json(samples: int, outcomes: list[Outcome]) -> str:
    """All results as one JSON document."""
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
    # JSON has no NaN and no infinity: they become null.
    finite = json.loads(json.dumps(data), parse_constant=lambda _: None)
    return json.dumps(finite, indent=2, ensure_ascii=False)


def table(outcomes: list[Outcome]) -> Table:
    """All results as a table."""
    rows = Table(
        "check", "checkpoint", "result", "figures", title="Interoperability with other engines"
    )
    for outcome in outcomes:
        result = Text("passed", "green") if outcome.passed else Text("FAILED", "bold red")
        rows.add_row(outcome.check, outcome.checkpoint, result, Text(outcome.summary))
    return rows


if __name__ == "__main__":
    sys.exit(main())
