"""Greedy answers to the same prompts of `salient generate`, the embedded server, and vLLM.

Answers may diverge where two tokens are equally likely in the dequantized model (`NEAR_TIE`); each
token is compared with that model's logits after the same tokens. The log probabilities of the
embedded server must agree with that model to LOGPROBS nats.
"""

import json
import subprocess
import sys
from typing import Any

from checks import NEAR_TIE, PROMPTS, TOKENS, Case, Outcome, log_step, walk
from salient import api
from vllm_serves import ServeFault, Server, completion, free_port

LOGPROBS = 0.02  # nats


def greedy_parity(case: Case) -> Outcome:
    """Compare all three with the dequantized model and with each other."""
    try:
        answers = {
            "generate": generated(case),
            "embedded": served(case, "embedded"),
            "vllm": served(case, "vllm"),
        }
    except ServeFault as error:
        return Outcome("greedy", case.name, passed=False, summary=str(error))
    figures = compared(case, answers)
    passed = (
        figures["largest_gap"] < NEAR_TIE
        and figures["largest_logprob_difference"] < LOGPROBS
        and figures["generate_is_embedded"]
    )
    summary = (
        f"{figures['same_as_vllm']} of {len(PROMPTS)} answers equal vLLM's, "
        f"largest gap of a token {figures['largest_gap']:.3f}; generate and server "
        f"{'agree' if figures['generate_is_embedded'] else 'DIFFER'}; logprobs differ by at most "
        f"{figures['largest_logprob_difference']:.4f}"
    )
    return Outcome("greedy", case.name, passed, summary, figures)


def generated(case: Case) -> list[dict[str, Any]]:
    """Tokens of each prompt by `salient generate`."""
    log_step(f"{case.name}: greedy, salient generate")
    command = [sys.executable, "-m", "salient", "generate", str(case.folder), "--json"]
    command += ["--max-new-tokens", str(TOKENS)]
    command += [part for prompt in PROMPTS for part in ("-p", prompt)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [{"token_ids": answer["tokens"]} for answer in json.loads(ran.stdout)["answers"]]


def served(case: Case, engine: str) -> list[dict[str, Any]]:
    """Token ids and log probabilities of each prompt by `salient serve` with an engine."""
    log_step(f"{case.name}: greedy, salient serve --engine {engine}")
    server = Server(case, case.folder, f"greedy_{engine}", free_port(), engine)
    try:
        server.wait_until_ready()
        return [completion(server, prompt, TOKENS, logprobs=1) for prompt in PROMPTS]
    finally:
        server.close()


def compared(case: Case, answers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Compare every answer with the dequantized model in float32."""
    model, tokenizer = api.load(str(case.folder), dtype="float32")
    gaps, differences = [], []
    for engine, replies in answers.items():
        for prompt, answer in zip(PROMPTS, replies, strict=True):
            tokens = answer["token_ids"]
            reported: list[dict[str, float]] = [{}] * len(tokens)
            if engine == "embedded":
                logprobs = answer["logprobs"]["token_logprobs"]
                reported = [{str(t): p} for t, p in zip(tokens, logprobs, strict=True)]
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
    """How many answers have the same tokens, up to the shorter one: generate stops at the end of
    the answer."""
    pairs = [(a["token_ids"], b["token_ids"]) for a, b in zip(some, others, strict=True)]
    return sum(all(x == y for x, y in zip(a, b, strict=False)) for a, b in pairs)
