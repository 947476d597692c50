"""Whether the same prompt, greedy, gives the same answer in three places: `salient generate`, the
embedded server, and vLLM behind `salient serve`.

Two answers may part where the dequantized model finds two tokens equally likely (`NEAR_TIE`); from
there on each is judged by itself. The log probabilities that the embedded server reports must be
the dequantized model's to LOGPROBS nats.
"""

import json
import subprocess
import sys
from typing import Any

from checks import NEAR_TIE, PROMPTS, TOKENS, Case, Outcome, say, walk
from salient import api
from vllm_serves import Server, Wrong, asked, free_port

LOGPROBS = 0.02  # nats


def greedy_parity(case: Case) -> Outcome:
    """All three, prompt by prompt."""
    try:
        answers = {
            "generate": generated(case),
            "embedded": served(case, "embedded"),
            "vllm": served(case, "vllm"),
        }
    except Wrong as error:
        return Outcome("greedy", case.name, passed=False, said=str(error))
    figures = judged(case, answers)
    passed = (
        figures["largest_gap"] < NEAR_TIE
        and figures["largest_logprob_difference"] < LOGPROBS
        and figures["generate_is_embedded"]
    )
    said = (
        f"{figures['same_as_vllm']} of {len(PROMPTS)} answers are vLLM's to the last token, "
        f"largest gap of a token {figures['largest_gap']:.3f}; generate and server "
        f"{'the same' if figures['generate_is_embedded'] else 'DIFFER'}; logprobs differ by "
        f"{figures['largest_logprob_difference']:.4f} at most"
    )
    return Outcome("greedy", case.name, passed, said, figures)


def generated(case: Case) -> list[dict[str, Any]]:
    """What `salient generate` answers: tokens of each prompt."""
    say(f"{case.name}: greedy, salient generate")
    command = [sys.executable, "-m", "salient", "generate", str(case.folder), "--json"]
    command += ["--max-new-tokens", str(TOKENS)]
    command += [word for prompt in PROMPTS for word in ("-p", prompt)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [{"token_ids": answer["tokens"]} for answer in json.loads(ran.stdout)["answers"]]


def served(case: Case, engine: str) -> list[dict[str, Any]]:
    """What `salient serve` answers with an engine: token ids and log probabilities."""
    say(f"{case.name}: greedy, salient serve --engine {engine}")
    server = Server(case, case.folder, f"greedy_{engine}", free_port(), engine)
    try:
        server.wait_until_ready()
        return [asked(server, prompt, TOKENS, logprobs=1) for prompt in PROMPTS]
    finally:
        server.close()


def judged(case: Case, answers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Every answer walked through by the dequantized model, in float32."""
    model, tokenizer = api.load(str(case.folder), dtype="float32")
    gaps, differences = [], []
    for engine, found in answers.items():
        for prompt, answer in zip(PROMPTS, found, strict=True):
            tokens = answer["token_ids"]
            reported: list[dict[str, float]] = [{}] * len(tokens)
            if engine == "embedded":
                told = answer["logprobs"]["token_logprobs"]
                reported = [{str(t): p} for t, p in zip(tokens, told, strict=True)]
            gap, difference = walk(model, tokenizer(prompt)["input_ids"], tokens, reported)
            gaps += gap
            differences += difference
    return {
        "largest_gap": max(gaps),
        "largest_logprob_difference": max(differences),
        "same_as_vllm": _same(answers["embedded"], answers["vllm"]),
        "generate_is_embedded": _same(answers["generate"], answers["embedded"]) == len(PROMPTS),
        "answers": answers,
    }


def _same(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> int:
    """How many answers have the same tokens, as far as both go: generate stops where the model
    ends its answer."""
    pairs = [(a["token_ids"], b["token_ids"]) for a, b in zip(some, others, strict=True)]
    return sum(all(x == y for x, y in zip(a, b, strict=False)) for a, b in pairs)
