"""The checks of `run.py`. Each asks a peer, in its environment, and compares its answer.

A check takes a Case and gives an Outcome. What a peer's script prints is kept beside the
checkpoint, in SCRIPT.log.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

from salient import api
from salient.formats.checkpoint import open_checkpoint
from salient.models.model_folder import model_folder

HERE = Path(__file__).resolve().parent
MODEL = "smollm2-135m"
UNPACKERS = {  # by format
    "awq": "autoawq_weights.py",
    "compressed-tensors": "compressed_tensors_weights.py",
}

PROMPTS = (
    "The capital of France is",
    "Water boils at a lower temperature in the mountains because",
    "The three states of matter are solid, liquid and",
    "Once upon a time, in a village by the sea, there lived",
    "To sort a list of numbers in Python, you can",
)
TOKENS = 16
# vLLM computes in float16, the reference in float32. On sound checkpoints that alone moved a log
# probability by 0.006 nats in the mean, and by 0.025 to 0.044 at most. A fault as small as
# two swapped rows may hide in that: the check `weights` is the one that is exact.
NEAR_TIE = 0.05  # nats
LOGPROB_MEAN = 0.01  # nats; two swapped rows of one layer gave 0.010 to 0.041
LOGPROB_LARGEST = 0.1  # nats


class PeerError(Exception):
    """A peer's script ended with an error."""


class EnvironmentMissing(Exception):
    """A peer's environment could not be made."""


@dataclass(frozen=True)
class Case:
    """One checkpoint, its format, the folder for what the peers say of it, and its 16-bit type."""

    name: str
    format: str
    folder: Path
    work: Path
    dtype: str = "float16"


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    said: the figures in words, for the table
    figures: the same and more, for programs
    """

    check: str
    checkpoint: str
    passed: bool
    said: str
    figures: dict[str, Any] = field(default_factory=dict)


def weights(case: Case) -> Outcome:
    """The format's own library and Salient must read the same names and the same numbers."""
    script = UNPACKERS[case.format]
    theirs = case.work / "weights.safetensors"
    versions = json.loads(peer(case, "weights", script, case.folder, theirs).splitlines()[-1])
    ours = open_checkpoint(case.folder)
    names = {n for n in ours.parameter_names() if ours.is_quantized(n.removesuffix(".weight"))}
    with ours.reading(), safe_open(theirs, "pt") as file:
        both = sorted(names & set(file.keys()))
        in_one = sorted(names ^ set(file.keys()))
        pairs = ((ours.parameter(name).float(), file.get_tensor(name)) for name in both)
        differences = [difference(*pair) for pair in pairs]
    theirs.unlink()  # float32, so eight times the checkpoint
    unequal = [name for name, d in zip(both, differences, strict=True) if d != 0]
    said = f"{len(both)} modules, largest difference {max(differences, default=0.0):.3g}"
    if in_one:
        said += f"; {len(in_one)} read by one side only, such as {in_one[0]!r}"
    if unequal:
        said += f"; {len(unequal)} differ, such as {unequal[0]!r}"
    figures = {
        "modules": len(both),
        "largest_difference": max(differences, default=0.0),
        "unequal": unequal,
        "read_by_one_side_only": in_one,
        "peer": versions,
    }
    return Outcome("weights", case.name, bool(both) and not in_one and not unequal, said, figures)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """0.0 for equal tensors, else the largest difference; infinite if they cannot be compared."""
    if torch.equal(ours, theirs):
        return 0.0
    if ours.shape != theirs.shape or not (ours - theirs).isfinite().all():
        return float("inf")
    return (ours - theirs).abs().max().item()


def transformers4(case: Case) -> Outcome:
    """What Transformers 4 understood of config and tokenizer must be what the source means."""
    out = case.work / "transformers4.json"
    peer(case, "transformers4", "transformers4_reads.py", case.folder, out)
    found = json.loads(out.read_text("utf-8"))
    errors = [found[key] for key in ("config_error", "tokenizer_error") if key in found]
    if errors:
        return Outcome("transformers4", case.name, passed=False, said=errors[0], figures=found)
    # Transformers 5 has kept the old names of its classes, which lead to the new ones.
    found["tokenizer_class"] = class_name(found["tokenizer_class"])
    meant = meant_by_source(list(found["ids"]))
    meant["quantization_config"] = open_checkpoint(case.folder).config["quantization_config"]
    wrong = [key for key, value in meant.items() if found[key] != value]
    said = f"{len(meant)} settings, {len(found['ids'])} texts equal, rope {found['rope_theta']:g}"
    if wrong:
        said = f"{wrong[0]} is {found[wrong[0]]!r}, the source means {meant[wrong[0]]!r}"
    figures = {"compared": sorted(meant), "wrong": wrong, "transformers": found["transformers"]}
    return Outcome("transformers4", case.name, not wrong, said, figures)


def class_name(name: str) -> str:
    """What a class of Transformers is called in the version here."""
    return getattr(transformers, name).__name__ if hasattr(transformers, name) else name


def meant_by_source(texts: list[str]) -> dict[str, Any]:
    """The source's config and tokenizer as Salient's own Transformers reads them."""
    folder = model_folder(MODEL)
    config = transformers.AutoConfig.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return {
        "config_class": type(config).__name__,
        "rope_theta": config.rope_parameters["rope_theta"],
        "torch_dtype": str(config.dtype).removeprefix("torch."),
        "tokenizer_class": type(tokenizer).__name__,
        "special_ids": {k: getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")},
        "ids": {text: tokenizer(text)["input_ids"] for text in texts},
        "chat_template": tokenizer.chat_template,
    }


def places(case: Case) -> Outcome:
    """vLLM's loader must take every tensor and miss none, and its experts must hold ours."""
    out, experts = case.work / "vllm_loads.json", case.work / "experts.safetensors"
    peer(case, "places", "vllm_loads.py", case.folder, out, experts, "--dtype", case.dtype)
    figures = json.loads(out.read_text("utf-8"))
    expected = stacked_experts(open_checkpoint(case.folder))
    with safe_open(experts, "pt") as file:
        found = {place_of(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    wrong = [
        place
        for place in sorted(expected.keys() | found.keys())
        if place not in expected
        or place not in found
        or not torch.equal(expected[place], found[place])
    ]
    said = f"{figures['parameters']} parameters filled"
    if expected:
        said += f", {len(expected)} of experts as we wrote them"
    if figures["kernel_passed_over"]:
        said += "; no kernel for experts on this CPU"
    if wrong:
        said = f"{len(wrong)} stacked parameters differ, such as {wrong[0]}"
    return Outcome("places", case.name, not wrong, said, {**figures, "wrong": wrong})


def place_of(name: str) -> tuple[int, str]:
    """Layer and leaf of one of vLLM's stacked expert parameters, e.g. (1, 'w13_qweight')."""
    parts = name.split(".")
    return next(int(part) for part in parts if part.isdigit()), parts[-1]


def stacked_experts(checkpoint: Any) -> dict[tuple[int, str], torch.Tensor]:
    """Our experts' tensors stacked as vLLM stacks them: gate beside up, expert upon expert.

    Outputs are the last axis in the awq format, the first in compressed-tensors; of two `shape`s
    vLLM keeps the second.
    """
    outputs = -1 if checkpoint.format.name == "awq" else 1
    kinds = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    parts: dict[tuple[int, str, str], dict[int, torch.Tensor]] = {}
    for name in checkpoint.files:
        if ".experts." in name:
            path, _, rest = name.partition(".experts.")
            expert, module, leaf = rest.split(".")
            layer = next(int(part) for part in path.split(".") if part.isdigit())
            home = parts.setdefault((layer, kinds.get(module, module), leaf), {})
            home[int(expert)] = checkpoint.tensor(name)
    stacks = {key: torch.stack([e[n] for n in sorted(e)]) for key, e in parts.items()}
    made = {(layer, f"w2_{leaf}"): s for (layer, kind, leaf), s in stacks.items() if kind == "w2"}
    for (layer, kind, leaf), gate in stacks.items():
        if kind == "w1":
            up = stacks[layer, "w3", leaf]
            shape = leaf == "weight_shape"
            made[layer, f"w13_{leaf}"] = up if shape else torch.cat([gate, up], outputs)
    return made


def vllm(case: Case) -> Outcome:
    """vLLM must load the checkpoint and compute what our dequantized model computes.

    Its greedy tokens are walked through our model. Each must be our most likely one, or a near tie
    with it; and the log probabilities that it reports for its top five must be ours.
    """
    model, tokenizer = api.load(str(case.folder), dtype="float32")
    prompts = tokenizer(list(PROMPTS))["input_ids"]
    asked, out = case.work / "prompts.json", case.work / "vllm.json"
    asked.write_text(json.dumps(prompts), "utf-8")
    options = ("--dtype", case.dtype, "--tokens", TOKENS)
    peer(case, "vllm", "vllm_greedy.py", case.folder, asked, out, *options)
    found = json.loads(out.read_text("utf-8"))
    answers = zip(prompts, found["tokens"], found["logprobs"], strict=True)
    walks = [walk(model, *answer) for answer in answers]
    gaps = torch.tensor([gap for gaps, _ in walks for gap in gaps])
    differences = torch.tensor([d for _, differences in walks for d in differences])
    figures = {
        "steps": len(gaps),
        "identical": int((gaps == 0).sum()),
        "near_ties": int(((gaps > 0) & (gaps < NEAR_TIE)).sum()),
        "largest_gap": gaps.max().item(),
        "mean_logprob_difference": differences.mean().item(),
        "largest_logprob_difference": differences.max().item(),
        **{k: found[k] for k in ("arithmetic", "kernel", "quantization", "dtype", "vllm")},
    }
    return Outcome("vllm", case.name, agrees(figures, case.dtype), in_words(figures), figures)


@torch.inference_mode()
def walk(
    model: Any, prompt: list[int], tokens: list[int], logprobs: list[dict[str, float]]
) -> tuple[list[float], list[float]]:
    """The engine's steps judged by `model`, in nats: by how much each of its tokens is less likely
    than the most likely one, and how far each log probability that it reports is from ours."""
    logits = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
    gaps, differences = [], []
    for ours, token, reported in zip(logits.log_softmax(-1), tokens, logprobs, strict=True):
        gaps.append((ours.max() - ours[token]).item())
        differences += [abs(ours[int(t)].item() - theirs) for t, theirs in reported.items()]
    return gaps, differences


def agrees(figures: dict[str, Any], dtype: str) -> bool:
    """Whether vLLM computed in `dtype` what our model computes. A NaN does not."""
    coarser = torch.finfo(getattr(torch, dtype)).eps / torch.finfo(torch.float16).eps
    return (
        figures["identical"] + figures["near_ties"] == len(PROMPTS) * TOKENS
        and figures["mean_logprob_difference"] < LOGPROB_MEAN * coarser
        and figures["largest_logprob_difference"] < LOGPROB_LARGEST * coarser
    )


def in_words(figures: dict[str, Any]) -> str:
    """The figures of the check `vllm` for the table."""
    return (
        f"{figures['identical']} of {figures['steps']} tokens identical, "
        f"near ties {figures['near_ties']}, largest gap {figures['largest_gap']:.3f}; "
        f"logprobs differ by {figures['mean_logprob_difference']:.4f} in the mean, "
        f"{figures['largest_logprob_difference']:.3f} at most; "
        f"arithmetic: {figures['arithmetic']}"
    )


def environment_of(check: str, form: str) -> str:
    """The environment that a check of a format runs in. AutoAWQ's has Transformers 4."""
    if check in ("vllm", "places", "serves", "greedy"):
        return "vllm"
    if check == "lm-eval":
        return "lmeval"
    return "llmcompressor" if (check, form) == ("weights", "compressed-tensors") else "autoawq"


@cache
def environment(name: str) -> str:
    """The Python of the environment `name`, which is made if it is not there."""
    made = subprocess.run(
        ["bash", HERE / "environment.sh", name], stdout=subprocess.PIPE, text=True, check=False
    )
    if made.returncode:
        raise EnvironmentMissing(
            f"The environment {name!r} could not be made (exit code {made.returncode}); the reason "
            f"is above. Mend it, then try: interop/environment.sh {name}"
        )
    return made.stdout.strip()


def peer(case: Case, check: str, script: str, *arguments: object) -> str:
    """What `script` prints in the environment of `check`. Raises PeerError with its last words."""
    name = environment_of(check, case.format)
    say(f"{case.name}: {check}, {script} in {name}")
    log = case.work / f"{Path(script).stem}.log"
    command = [environment(name), str(HERE / script), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    log.write_text(ended.stdout + ended.stderr, "utf-8")
    if ended.returncode:
        last = (ended.stderr.strip() or "no message").splitlines()[-1]
        raise PeerError(f"{script} ended with exit code {ended.returncode}: {last} (all of {log})")
    return ended.stdout


def say(step: str) -> None:
    """A line of progress for whoever watches a terminal."""
    if sys.stderr.isatty():
        print(step, file=sys.stderr, flush=True)


CHECKS: dict[str, Callable[[Case], Outcome]] = {
    "weights": weights,
    "transformers4": transformers4,
    "places": places,
    "vllm": vllm,
}
