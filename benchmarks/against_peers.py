"""Salient and llm-compressor on the same model, tokens and scheme.

`quantize.py` times them and `quality.py` measures their checkpoints. Both use this module, so the
measured checkpoint is the timed one. A stamp next to each checkpoint lists its inputs, the
quantizer's code included; a checkpoint is reused only if they are unchanged.

The tokens are those of `salient quantize --calibration builtin`, by the same functions; the peer
reads them from a file. Both get all of them; Salient uses a few of the samples for its held-out
error.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import AutoTokenizer

import salient
from salient.core.scheme import parse_scheme
from salient.models.calibration_texts import calibration_tokens
from salient.models.model_folder import model_folder
from salient.models.tokens import TokenBatch
from subprocess_run import FinishedRun, log_step, run

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "benchmarks" / "peers" / "llmcompressor_awq.py"
PINS = ROOT / "interop" / "requirements" / "llmcompressor.txt"


@dataclass(frozen=True)
class Setting:
    """The options of both quantizers, and the folder to work in."""

    model: str
    scheme: str
    samples: int
    length: int
    peer_batch: int
    work: Path

    @property
    def tokens_file(self) -> Path:
        """The calibration tokens, for the peer."""
        return self.work / "tokens.safetensors"

    def described(self) -> dict[str, Any]:
        """The setting as plain values, for a JSON document."""
        return {
            "model": self.model,
            "scheme": self.scheme,
            "samples": self.samples,
            "sequence_length": self.length,
            "tokens_sha256": calibration(self).digest,
            "peer_batch_size": self.peer_batch,
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a Setting."""
    parser.add_argument("--model", default="smollm2-135m", help="folder, Hub id or demo model")
    parser.add_argument("--scheme", default="w4-g64")
    parser.add_argument("--samples", type=int, default=16, help="calibration samples")
    parser.add_argument("--sequence-length", type=int, default=512, help="tokens per sample")
    parser.add_argument("--peer-batch-size", type=int, default=4, help="samples per forward pass")
    parser.add_argument("--work", type=Path, default=Path(".work/bench"))


def setting_of(options: argparse.Namespace) -> Setting:
    """The Setting of the options; creates its folder."""
    options.work.mkdir(parents=True, exist_ok=True)
    parse_scheme(options.scheme)  # an invalid name fails now, not after the first run
    return Setting(
        options.model,
        options.scheme,
        options.samples,
        options.sequence_length,
        options.peer_batch_size,
        options.work,
    )


@cache
def calibration(setting: Setting) -> TokenBatch:
    """The calibration tokens, also written to the file that the peer reads."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder(setting.model))
    batch = calibration_tokens("builtin", tokenizer, setting.samples, setting.length)
    save_file({"tokens": batch.ids}, setting.tokens_file)
    return batch


def run_salient(setting: Setting, out: Path, samples: int) -> FinishedRun:
    """Run `salient quantize` from the start, into `out`, on `samples` built-in samples."""
    command = [sys.executable, "-m", "salient", "quantize", setting.model, "-o", str(out)]
    command += ["--scheme", setting.scheme, "--calibration", "builtin", "--samples", str(samples)]
    command += ["--sequence-length", str(setting.length), "--fresh", "--json"]
    return run(command, out.with_suffix(".log"))


def salient_awq(setting: Setting) -> FinishedRun:
    """Run Salient, and check that it used the same tokens as the peer."""
    out = setting.work / "salient"
    finished = run_salient(setting, out, setting.samples)
    used = json.loads((out / "salient.json").read_text())["run"]["calibration"]
    if used != calibration(setting).digest:
        raise SystemExit(f"{out} used tokens {used}, the peer {calibration(setting).digest}.")
    return finished


def llmcompressor(setting: Setting, method: str) -> FinishedRun:
    """Run llm-compressor: `method` awq, or rtn for its rounding to nearest."""
    calibration(setting)
    out = setting.work / FOLDERS[f"llmcompressor-{method}"]
    shutil.rmtree(out, ignore_errors=True)
    scheme = parse_scheme(setting.scheme)
    command = [peer_python(), str(PEER), str(model_folder(setting.model))]
    command += [str(setting.tokens_file), str(out), "--method", method]
    command += ["--scheme", "sym" if scheme.symmetric else "asym"]
    command += ["--group-size", str(scheme.group_size), "--batch-size", str(setting.peer_batch)]
    return run(command, out.with_suffix(".log"))


@cache
def peer_python() -> str:
    """The Python of llm-compressor's environment, created by the first call."""
    script = [str(ROOT / "interop" / "environment.sh"), "llmcompressor"]
    return subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


QUANTIZERS: dict[str, Callable[[Setting], FinishedRun]] = {
    "salient-awq": salient_awq,
    "llmcompressor-awq": lambda setting: llmcompressor(setting, "awq"),
    "llmcompressor-rtn": lambda setting: llmcompressor(setting, "rtn"),
}
FOLDERS = {
    "salient-awq": "salient",
    "llmcompressor-awq": "llmcompressor",
    "llmcompressor-rtn": "llmcompressor-rtn",
}


def write_checkpoint(who: str, setting: Setting) -> FinishedRun:
    """Write the checkpoint of `who` again, and its stamp."""
    stamp = _stamp_file(who, setting)
    stamp.unlink(missing_ok=True)
    finished = QUANTIZERS[who](setting)
    stamp.write_text(json.dumps(_stamp(who, setting), indent=2) + "\n")
    return finished


def checkpoint(who: str, setting: Setting) -> Path:
    """The checkpoint of `who`: the existing one if its stamp matches, else a new one."""
    folder, stamp = setting.work / FOLDERS[who], _stamp_file(who, setting)
    fits = stamp.exists() and json.loads(stamp.read_text()) == _stamp(who, setting)
    if fits and (folder / "config.json").exists():
        log_step(f"reusing {folder}")
    else:
        write_checkpoint(who, setting)
    return folder


def _stamp_file(who: str, setting: Setting) -> Path:
    return setting.work / f"{FOLDERS[who]}.stamp.json"


def _stamp(who: str, setting: Setting) -> dict[str, str]:
    """The inputs of the checkpoint of `who`, the quantizer's code included."""
    model = model_folder(setting.model)
    ours = sorted(Path(salient.__file__).parent.rglob("*.py"))
    return {
        "model": digest([model / "config.json", *sorted(model.glob("*.safetensors"))]),
        "scheme": setting.scheme,
        "tokens": calibration(setting).digest,
        "code": digest(ours) if who == "salient-awq" else digest([PEER, PINS]),
    }


def digest(files: Iterable[Path]) -> str:
    """SHA-256 over the contents of `files`, in their order."""
    sums = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            sums.update(hashlib.file_digest(file, "sha256").digest())
    return sums.hexdigest()
