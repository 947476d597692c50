"""A load test by the tool that is there: `vllm bench serve`, guidellm, or the built-in client."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from salient.core.errors import RequestError
from salient.core.progress import Progress

from .foreign import foreign_command, from_guidellm, from_vllm_bench
from .latencies import LoadResult
from .plans import LoadPlan, Target, check_plan
from .prompts import Count
from .runs import run_load

AUTO, OURS = "auto", "salient"
STARTING = 300.0  # seconds that another tool has beside its requests: it imports for long
LONGEST_OUTPUT = 2000  # characters of its words that a message holds

_READERS: dict[str, Callable[[Any], list[LoadResult]]] = {
    "vllm": lambda found: [from_vllm_bench(found)],
    "guidellm": from_guidellm,
}
TOOLS = (AUTO, *_READERS, OURS)


def run_with(
    tool: str,
    target: Target,
    plan: LoadPlan,
    progress: Progress,
    *,
    tokenizer: str = "",
    count_tokens: Count | None = None,
) -> list[LoadResult]:
    """Run `plan` with `tool`, one of TOOLS: the same numbers in the same format from each.

    auto: the first that is on PATH and can do it, else the built-in client. A step's note says
    where another tool was tried and failed.
    tokenizer: for the others, a folder or Hub id where the model's name is none
    count_tokens: for the built-in client, tokens of a text

    Raises RequestError for what cannot be asked, and where the named tool fails.
    """
    check_plan(plan)
    if tool not in TOOLS:
        raise RequestError(f"No tool {tool[:40]!r} for load tests. Known: {', '.join(TOOLS)}.")
    if tool in _READERS:
        return _run_foreign(tool, target, plan, progress, tokenizer)
    tried = []
    for name in filter(shutil.which, _READERS if tool == AUTO else ()):
        try:
            return _run_foreign(name, target, plan, progress, tokenizer)
        except RequestError as error:
            tried.append(f"{name} did not do: {error}")
    results = run_load(target, plan, progress, count_tokens)
    notes = "; ".join(tried)
    return [replace(r, note="; ".join(filter(None, (r.note, notes)))) for r in results]


def _run_foreign(
    tool: str, target: Target, plan: LoadPlan, progress: Progress, tokenizer: str
) -> list[LoadResult]:
    """Every step, a command each."""
    found: list[LoadResult] = []
    for number, step in enumerate(plan.steps):
        progress(number, len(plan.steps), f"{step.words}, with {tool}", "")
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "result.json"
            one = replace(plan, steps=(step,))
            command = foreign_command(tool, target, one, output, tokenizer)
            _run(tool, command, target, one)
            found += _READERS[tool](_read(tool, output))
    progress(len(plan.steps), len(plan.steps), "load test", "")
    return found


def _run(tool: str, command: list[str], target: Target, plan: LoadPlan) -> None:
    # No request lasts longer than its own limit; they come `concurrency` at a time.
    rounds = -(-(plan.requests or 1) // plan.steps[0].concurrency)
    patience = STARTING + (plan.seconds or 0) + rounds * target.timeout
    given = dict(os.environ)
    if target.api_key:
        given["OPENAI_API_KEY"] = target.api_key
    try:
        done = subprocess.run(
            command, env=given, capture_output=True, text=True, errors="replace", timeout=patience
        )
    except subprocess.TimeoutExpired:
        raise RequestError(
            f"{tool} did not end within {patience:.0f} s. Look at the server, or use the built-in "
            f"load test (--tool {OURS})."
        ) from None
    except OSError as error:
        raise RequestError(f"{tool} cannot be started ({error}). Use --tool {OURS}.") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-LONGEST_OUTPUT:]
        last = re.sub(r"[^ -~]+", " ", said.splitlines()[-1])[:500] if said else "it says nothing"
        raise RequestError(
            f"{tool} ended with exit code {done.returncode}: {last}. Use the built-in load "
            f"test (--tool {OURS}), or mend its environment."
        )


def _read(tool: str, output: Path) -> Any:
    try:
        return json.loads(output.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{tool} ended well and left no result that can be read ({error}). Use --tool {OURS}."
        ) from None
