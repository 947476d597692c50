"""The commands that serve a checkpoint, for the end of a run and for the card."""

import json
import shlex

from salient.core.evidence import RunEvidence
from salient.plan.commands import TRACK_WEIGHTS
from salient.plan.vllm.versions import TRACKS_WEIGHTS, release_name

# vLLM knows --runner since 0.10; before, pooling models had tasks.
POOLING = ["--runner", "pooling"]
OLD_TASKS = {"labels": "classify", "score": "reward", "embedding": "embed"}


def vllm_lines(name: str, evidence: RunEvidence) -> list[str]:
    """vLLM's command, with what newer or older releases need as comments.

    A flag that a release does not know stops it, so that the command has none of them.
    """
    pools = evidence.answers != "tokens"
    track = ["--model-loader-extra-config", json.dumps(TRACK_WEIGHTS)]
    lines = [shlex.join(["vllm", "serve", name, *(POOLING if pools else [])])]
    if pools:
        lines.append(f"# before vLLM 0.10: --task {OLD_TASKS[evidence.answers]} for {POOLING[0]}")
    lines.append(
        f"# vLLM {release_name(TRACKS_WEIGHTS)} and later: add {shlex.join(track)}"
        " to refuse a missing tensor"
    )
    if evidence.mtp:
        drafts = json.dumps({"method": "mtp", "num_speculative_tokens": 1})
        lines.append(
            f"# to draft with its MTP layers: add --speculative-config {shlex.quote(drafts)}"
        )
    return lines


def serve_lines(name: str, evidence: RunEvidence) -> list[str]:
    """The commands of all engines."""
    sglang = ["python", "-m", "sglang.launch_server", "--model-path", name]
    if evidence.answers != "tokens":
        return [*vllm_lines(name, evidence), shlex.join([*sglang, "--is-embedding"])]
    salient = shlex.join(["salient", "serve", name])
    return [*vllm_lines(name, evidence), shlex.join(sglang), salient]
