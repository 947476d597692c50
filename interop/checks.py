"""The checks of `run.py`: run a peer in its environment and compare its result with Salient's.

A check takes a Case and returns an Outcome. The output of a peer's script is in SCRIPT.log, in the
checkpoint's work folder.
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
from salient.core.evidence import read_evidence
from salient.formats.checkpoint import open_checkpoint
from salient.models.model_folder import model_folder
from salient.models.output_head import OutputHead

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
# vLLM computes in float16, the reference in float32. On valid checkpoints that alone changes a log
# probability by 0.006 nats on average, and by at most 0.025 to 0.044. A fault as small as two
# swapped rows is not visible in that: the check `weights` is exact.
NEAR_TIE = 0.05  # nats
LOGPROB_MEAN = 0.01  # nats; two swapped rows of one layer gave 0.010 to 0.041
SCORES_APART = 0.05  # of the standard deviation of scores: the engine computes in 16 bits
LOGPROB_LARGEST = 0.1  # nats


class PeerError(Exception):
    """A peer's script failed."""


class EnvironmentMissing(Exception):
    """A peer's environment could not be created."""


@dataclass(frozen=True)
class Case:
    """A checkpoint.

    work: folder for the peers' output   dtype: its 16-bit type
    """

    name: str
    format: str
    folder: Path
    work: Path
    dtype: str = "float16"


@dataclass(frozen=True)
class Outcome:
    """The result of a check.

    summary: the main figures as text, for the table
    figures: all figures, for programs
    """

    check: str
    checkpoint: str
    passed: bool
    summary: str
    figures: dict[str, Any] = field(default_factory=dict)


def weights(case: Case) -> Outcome:
    """The format's own library and Salient must read the same names and values."""
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
    summary = f"{len(both)} modules, largest difference {max(differences, default=0.0):.3g}"
    if in_one:
        summary += f"; {len(in_one)} read by only one, such as {in_one[0]!r}"
    if unequal:
        summary += f"; {len(unequal)} differ, such as {unequal[0]!r}"
    figures = {
        "modules": len(both),
        "largest_difference": max(differences, default=0.0),
        "unequal": unequal,
        "read_by_one_side_only": in_one,
        "peer": versions,
    }
    return Outcome(
        "weights", case.name, bool(both) and not in_one and not unequal, summary, figures
    )


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, 0.0 for equal tensors; infinite for other shapes or values."""
    if torch.equal(ours, theirs):
        return 0.0
    if ours.shape != theirs.shape or not (ours - theirs).isfinite().all():
        return float("inf")
    return (ours - theirs).abs().max().item()


def transformers4(case: Case) -> Outcome:
    """Transformers 4 must read the config and tokenizer with the values of the source."""
    out = case.work / "transformers4.json"
    peer(case, "transformers4", "transformers4_reads.py", case.folder, out)
    reading = json.loads(out.read_text("utf-8"))
    errors = [reading[key] for key in ("config_error", "tokenizer_error") if key in reading]
    if errors:
        return Outcome("transformers4", case.name, passed=False, summary=errors[0], figures=reading)
    # Transformers 5 has the old names of its classes as aliases.
    reading["tokenizer_class"] = class_name(reading["tokenizer_class"])
    meant = meant_by_source(list(reading["ids"]))
    meant["quantization_config"] = open_checkpoint(case.folder).config["quantization_config"]
    wrong = [key for key, value in meant.items() if reading[key] != value]
    summary = (
        f"{len(meant)} settings, {len(reading['ids'])} texts equal, rope {reading['rope_theta']:g}"
    )
    if wrong:
        summary = f"{wrong[0]} is {reading[wrong[0]]!r}, {meant[wrong[0]]!r} in the source"
    figures = {"compared": sorted(meant), "wrong": wrong, "transformers": reading["transformers"]}
    return Outcome("transformers4", case.name, not wrong, summary, figures)


def class_name(name: str) -> str:
    """The name of a Transformers class in the installed version."""
    return getattr(transformers, name).__name__ if hasattr(transformers, name) else name


def meant_by_source(texts: list[str]) -> dict[str, Any]:
    """The source's config and tokenizer as read by Salient's Transformers."""
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
    """vLLM's loader must use every tensor, fill every parameter, and have our experts' values."""
    out, experts = case.work / "vllm_loads.json", case.work / "experts.safetensors"
    peer(case, "places", "vllm_loads.py", case.folder, out, experts, "--dtype", case.dtype)
    figures = json.loads(out.read_text("utf-8"))
    expected = stacked_experts(open_checkpoint(case.folder))
    with safe_open(experts, "pt") as file:
        loaded = {place_of(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    wrong = [
        place
        for place in sorted(expected.keys() | loaded.keys())
        if place not in expected
        or place not in loaded
        or not torch.equal(expected[place], loaded[place])
    ]
    summary = f"{figures['parameters']} parameters filled"
    if expected:
        summary += f", {len(expected)} of experts equal to ours"
    if figures["kernel_passed_over"]:
        summary += "; no kernel for experts on this CPU"
    if wrong:
        summary = f"{len(wrong)} stacked parameters differ, such as {wrong[0]}"
    return Outcome("places", case.name, not wrong, summary, {**figures, "wrong": wrong})


def drafts(case: Case) -> Outcome:
    """vLLM's drafting model must be filled, with each row of our layers for further tokens."""
    out, parameters = case.work / "vllm_drafts.json", case.work / "drafts.safetensors"
    options = ("--mtp", "--dtype", case.dtype)
    peer(case, "drafts", "vllm_loads.py", case.folder, out, parameters, *options)
    figures = json.loads(out.read_text("utf-8"))
    rows: dict[int, set[bytes]] = {}
    with safe_open(parameters, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            rows.setdefault(tensor.shape[-1], set()).update(rows_of(tensor))
    ours = open_checkpoint(case.folder)
    names = [
        n for n in ours.files if n.startswith(f"model.layers.{ours.config['num_hidden_layers']}.")
    ]
    lost = [
        name
        for name in names
        if not set(rows_of(tensor := ours.tensor(name))) <= rows.get(tensor.shape[-1], set())
    ]
    summary = f"{figures['parameters']} parameters filled, {len(names)} tensors in place"
    if lost or not names:
        summary = f"{len(lost)} of {len(names)} tensors are not in vLLM's, such as {lost[:1]}"
    return Outcome(
        "drafts", case.name, bool(names) and not lost, summary, {**figures, "lost": lost}
    )


def rows_of(tensor: torch.Tensor) -> list[bytes]:
    """The rows along the last axis, as bytes in float32."""
    return [row.numpy().tobytes() for row in tensor.float().reshape(-1, tensor.shape[-1])]


def scores(case: Case) -> Outcome:
    """vLLM's scores must be ours, and prefer as the 16-bit model's within the measured KL."""
    prompts, out = case.work / "prompts.json", case.work / "vllm_scores.json"
    whole = " ".join(PROMPTS)
    texts = [whole[start : start + 60 + start % 70] for start in range(0, 200, 7)]
    prompts.write_text(json.dumps(texts), "utf-8")
    peer(case, "scores", "vllm_scores.py", case.folder, prompts, out, "--dtype", case.dtype)
    theirs = torch.tensor(json.loads(out.read_text("utf-8")))
    tokenizer = transformers.AutoTokenizer.from_pretrained(case.folder)
    ids = [tokenizer(text, return_tensors="pt").input_ids for text in texts]
    source = case.work.parent / "models" / case.name
    exact = transformers.AutoModelForSequenceClassification.from_pretrained(source, dtype="float32")
    with torch.no_grad():
        ours, true = (
            torch.cat([model(input_ids=each).logits for each in ids])
            for model in (api.load(str(case.folder))[0], exact)
        )
    difference = float((theirs - ours).abs().max() / true.std())
    evidence = read_evidence(case.folder)
    assert evidence is not None
    head, order = OutputHead("score", "score"), torch.arange(len(texts))
    kl, measured = head.compare(true, theirs, order).kl, evidence.heldout.awq.kl
    passed = difference < SCORES_APART and kl < 1.5 * measured
    summary = (
        f"{len(texts)} scores, at most {difference:.3f} standard deviations from ours; "
        f"KL to the 16-bit model's preferences {kl:.4f}, measured {measured:.4f}"
    )
    return Outcome("scores", case.name, passed, summary, {"difference": difference, "kl": kl})


def place_of(name: str) -> tuple[int, str]:
    """Layer and leaf of one of vLLM's stacked expert parameters, e.g. (1, 'w13_qweight')."""
    parts = name.split(".")
    return next(int(part) for part in parts if part.isdigit()), parts[-1]


def stacked_experts(checkpoint: Any) -> dict[tuple[int, str], torch.Tensor]:
    """Our experts' tensors in vLLM's layout: gate and up concatenated, experts stacked.

    Outputs are the last axis in the awq format, the first in compressed-tensors. vLLM uses the
    `shape` of up.
    """
    outputs = -1 if checkpoint.format.name == "awq" else 1
    kinds = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    parts: dict[tuple[int, str, str], dict[int, torch.Tensor]] = {}
    for name in checkpoint.files:
        if ".experts." in name and not name.endswith(".weight"):  # 16-bit ones are no codes
            path, _, rest = name.partition(".experts.")
            expert, module, leaf = rest.split(".")
            layer = next(int(part) for part in path.split(".") if part.isdigit())
            home = parts.setdefault((layer, kinds.get(module, module), leaf), {})
            home[int(expert)] = checkpoint.tensor(name)
    stacks = {key: torch.stack([e[n] for n in sorted(e)]) for key, e in parts.items()}
    stacked = {
        (layer, f"w2_{leaf}"): s for (layer, kind, leaf), s in stacks.items() if kind == "w2"
    }
    for (layer, kind, leaf), gate in stacks.items():
        if kind == "w1":
            up = stacks[layer, "w3", leaf]
            shape = leaf == "weight_shape"
            stacked[layer, f"w13_{leaf}"] = up if shape else torch.cat([gate, up], outputs)
    return stacked


def vllm(case: Case) -> Outcome:
    """vLLM must load the checkpoint and agree with our dequantized model.

    Each of its greedy tokens must be the most likely one of our model after the same tokens, or a
    near tie with it, and the log probabilities of its top five must agree.
    """
    model, tokenizer = api.load(str(case.folder), dtype="float32")
    prompts = tokenizer(list(PROMPTS))["input_ids"]
    prompts_file, out = case.work / "prompts.json", case.work / "vllm.json"
    prompts_file.write_text(json.dumps(prompts), "utf-8")
    options = ("--dtype", case.dtype, "--tokens", TOKENS)
    peer(case, "vllm", "vllm_greedy.py", case.folder, prompts_file, out, *options)
    reply = json.loads(out.read_text("utf-8"))
    answers = zip(prompts, reply["tokens"], reply["logprobs"], strict=True)
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
        **{k: reply[k] for k in ("arithmetic", "kernel", "quantization", "dtype", "vllm")},
    }
    return Outcome(
        "vllm", case.name, agrees(figures, case.dtype), agreement_summary(figures), figures
    )


@torch.inference_mode()
def walk(
    model: Any, prompt: list[int], tokens: list[int], logprobs: list[dict[str, float]]
) -> tuple[list[float], list[float]]:
    """Compare an engine's steps with `model`, in nats: the gap of each token to the most likely
    one, and the difference of each reported log probability."""
    logits = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
    gaps, differences = [], []
    for ours, token, reported in zip(logits.log_softmax(-1), tokens, logprobs, strict=True):
        gaps.append((ours.max() - ours[token]).item())
        differences += [abs(ours[int(t)].item() - theirs) for t, theirs in reported.items()]
    return gaps, differences


def agrees(figures: dict[str, Any], dtype: str) -> bool:
    """Whether vLLM agrees with our model within the bounds of `dtype`. A NaN does not."""
    coarser = torch.finfo(getattr(torch, dtype)).eps / torch.finfo(torch.float16).eps
    return (
        figures["identical"] + figures["near_ties"] == len(PROMPTS) * TOKENS
        and figures["mean_logprob_difference"] < LOGPROB_MEAN * coarser
        and figures["largest_logprob_difference"] < LOGPROB_LARGEST * coarser
    )


def agreement_summary(figures: dict[str, Any]) -> str:
    """The figures of the check `vllm` as text."""
    return (
        f"{figures['identical']} of {figures['steps']} tokens identical, "
        f"near ties {figures['near_ties']}, largest gap {figures['largest_gap']:.3f}; "
        f"logprobs differ by {figures['mean_logprob_difference']:.4f} on average, "
        f"at most {figures['largest_logprob_difference']:.3f}; "
        f"arithmetic: {figures['arithmetic']}"
    )


def environment_of(check: str, form: str) -> str:
    """The environment of a check of a format. `autoawq` has Transformers 4."""
    if check in ("vllm", "places", "serves", "greedy", "drafts", "scores"):
        return "vllm"
    if check == "lm-eval":
        return "lmeval"
    return "llmcompressor" if (check, form) == ("weights", "compressed-tensors") else "autoawq"


@cache
def environment(name: str) -> str:
    """The Python of the environment `name`, which is created if it does not exist."""
    script = subprocess.run(
        ["bash", HERE / "environment.sh", name], stdout=subprocess.PIPE, text=True, check=False
    )
    if script.returncode:
        raise EnvironmentMissing(
            f"The environment {name!r} could not be created (exit code {script.returncode}); the "
            f"reason is above. Fix it, then run: interop/environment.sh {name}"
        )
    return script.stdout.strip()


def peer(case: Case, check: str, script: str, *arguments: object) -> str:
    """The output of `script` in the environment of `check`. Raises PeerError with its last line."""
    name = environment_of(check, case.format)
    log_step(f"{case.name}: {check}, {script} in {name}")
    log = case.work / f"{Path(script).stem}.log"
    command = [environment(name), str(HERE / script), *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    log.write_text(process.stdout + process.stderr, "utf-8")
    if process.returncode:
        last = (process.stderr.strip() or "no message").splitlines()[-1]
        raise PeerError(f"{script} failed with exit code {process.returncode}: {last} (log: {log})")
    return process.stdout


def log_step(step: str) -> None:
    """Show a line of progress on a terminal."""
    if sys.stderr.isatty():
        print(step, file=sys.stderr, flush=True)


CHECKS: dict[str, Callable[[Case], Outcome]] = {
    "weights": weights,
    "transformers4": transformers4,
    "places": places,
    "vllm": vllm,
    "drafts": drafts,
    "scores": scores,
}
