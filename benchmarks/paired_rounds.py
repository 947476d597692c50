"""Engines side by side: each run in a fresh process, ours and a peer's in turn, judged in pairs.

A machine wavers. So ours runs right before each peer, a ratio is always that of neighbours, and
the median of several such ratios is what counts.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from subprocess_run import run, say

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One engine on one model.

    script: in benchmarks/peers   environment: of interop/environment.sh; '' for Salient's own
    """

    name: str
    script: str
    model: Path
    environment: str = ""
    options: tuple[str, ...] = ()


@dataclass
class Contest:
    """What all are asked for, and where logs and figures go."""

    work: Path
    ids: Path
    prompt_tokens: int
    new_tokens: int
    threads: int
    repeats: int
    rounds: int
    found: dict[str, list[Figures]] = field(default_factory=dict)

    def run(self, side: Side, *options: str) -> Figures:
        """One fresh process of `side`; what it says is also kept in `found`."""
        asked = {
            "--ids": self.ids,
            "--prompt-tokens": self.prompt_tokens,
            "--new-tokens": self.new_tokens,
            "--repeats": self.repeats,
        }
        words = [str(word) for pair in asked.items() for word in pair]
        figures = self.ask(side.script, side.model, side.environment, *words, *side.options)
        self.found.setdefault(side.name, []).append(figures)
        return figures

    def ask(self, script: str, model: Path | None, environment: str, *options: str) -> Figures:
        """What `script` says in its last line."""
        command = [python(environment), str(PEERS / script), "--threads", str(self.threads)]
        command += [] if model is None else ["--model", str(model)]
        log = self.work / f"{Path(script).stem}.log"
        return json.loads(run([*command, *options], log).out.strip().splitlines()[-1])

    def pairs(self, ours: Side, peers: Sequence[Side]) -> dict[str, list[tuple[Figures, Figures]]]:
        """Ours and each peer in turn, `rounds` times: peer's name -> (ours, its) of each round."""
        made: dict[str, list[tuple[Figures, Figures]]] = {peer.name: [] for peer in peers}
        for _ in range(self.rounds):
            for peer in peers:
                made[peer.name].append((self.run(ours), self.run(peer)))
        return made


def times_faster(pairs: Sequence[tuple[Figures, Figures]], key: str) -> list[float]:
    """How many times our time the peer takes, in each pair."""
    return [theirs[key] / ours[key] for ours, theirs in pairs]


def median_of(runs: Sequence[Figures], key: str) -> float:
    """The median over processes of a figure."""
    return statistics.median(run[key] for run in runs)


@cache
def python(environment: str) -> str:
    """The Python of a peer's environment, made on the first call; '' is this one."""
    if not environment:
        return sys.executable
    script = [str(ROOT / "interop" / "environment.sh"), environment]
    made = subprocess.run(script, check=False, stdout=subprocess.PIPE, text=True)
    if made.returncode:
        say(f"The environment {environment!r} could not be made; the reason is above.")
        raise SystemExit(2)
    return made.stdout.strip()
