"""Checkpoints of Salient and its peers of the same model, tokens and scheme.

`quantize.py` times them and `quality.py` measures them. Both use this module, so the measured
checkpoint is the timed one. A stamp next to each checkpoint has its inputs, the quantizer's code
included, and what its run took; a checkpoint is reused only if its inputs are unchanged.

The tokens of a setting are drawn once, as `salient quantize --calibration builtin` draws them, and
written to its folder, from where every quantizer reads them. Seed 1 gets the samples after those of
seed 0, and so on. All get all of them; Salient uses some of the samples to judge its choices.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import salient
import train_models
from salient.core.scheme import parse_scheme
from salient.models.calibration_texts import calibration_tokens
from salient.models.model_folder import model_folder
from subprocess_run import FinishedRun, log_step, run

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
PINS = ROOT / "interop" / "requirements"
PEER_BATCH = 4  # samples per forward pass of llm-compressor
AUTOROUND_SEED = 42  # its default


@dataclass(frozen=True)
class Quantizer:
    """A tool and its options.

    environment: of interop/environment.sh; '' for Salient's
    """

    script: str
    environment: str
    options: tuple[str, ...] = ()


QUANTIZERS = {
    **{
        f"salient-{effort}": Quantizer("salient_awq.py", "", ("--effort", effort))
        for effort in ("fast", "balanced", "best")
    },
    "llmcompressor-rtn": Quantizer("llmcompressor_awq.py", "llmcompressor", ("--method", "rtn")),
    "llmcompressor-awq": Quantizer(
        "llmcompressor_awq.py", "llmcompressor", ("--batch-size", str(PEER_BATCH))
    ),
    "autoround": Quantizer("autoround.py", "autoround", ("--iterations", "200")),
}


@dataclass(frozen=True)
class Setting:
    """What all quantizers share.

    model: folder, Hub id, demo model, or the name of one of `train_models.py`
    work: the folder of all settings
    """

    model: str
    scheme: str
    samples: int
    length: int
    work: Path
    seed: int = 0

    @property
    def folder(self) -> Path:
        """The folder of the tokens and checkpoints."""
        seed = f"-seed{self.seed}" if self.seed else ""
        name = f"{Path(self.model).name}-{self.scheme}-{self.samples}x{self.length}{seed}"
        return self.work / name

    @property
    def source(self) -> Path:
        """The 16-bit model, trained by the first call if it is one of `train_models.py`."""
        if self.model in train_models.CONFIGS:
            return train_models.trained_model(self.model, self.work)
        return model_folder(self.model)

    @property
    def tokens_file(self) -> Path:
        """The calibration tokens, drawn by the first call."""
        path = self.folder / "tokens.safetensors"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            tokenizer, last = AutoTokenizer.from_pretrained(self.source), self.seed + 1
            batch = calibration_tokens("builtin", tokenizer, last * self.samples, self.length)
            save_file({"tokens": batch.ids[-self.samples :].contiguous()}, path)
        return path

    def described(self) -> dict[str, Any]:
        """The setting as plain values, for a JSON document."""
        return {
            "model": self.model,
            "scheme": self.scheme,
            "samples": self.samples,
            "sequence_length": self.length,
            "seed": self.seed,
            "tokens_sha256": digest([self.tokens_file]),
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a Setting, each repeatable."""
    for option, default, help_text in (
        ("--model", "smollm2-135m", "folder, Hub id, demo model, or llama, gemma, mixture"),
        ("--scheme", "w4-g64", "w4-g64, w4-g128, w4-g64-sym, ..."),
        ("--tokens", "16x512", "calibration samples x tokens of each"),
        ("--seed", "0", "of the calibration samples and the texts' order"),
    ):
        parser.add_argument(option, action="append", help=f"{help_text}; default {default}")
        parser.set_defaults(**{f"default_{option[2:]}": default})
    parser.add_argument("--work", type=Path, default=Path(".work/bench"))


def settings_of(options: argparse.Namespace) -> list[Setting]:
    """Every combination of the options."""
    chosen = {
        name: getattr(options, name) or [getattr(options, f"default_{name}")]
        for name in ("model", "scheme", "tokens", "seed")
    }
    for scheme in chosen["scheme"]:
        parse_scheme(scheme)  # an invalid name fails now, not after the first run
    return [
        Setting(model, scheme, *map(int, tokens.split("x")), options.work, int(seed))
        for seed in chosen["seed"]
        for tokens in chosen["tokens"]
        for model in chosen["model"]
        for scheme in chosen["scheme"]
    ]


def write_checkpoint(who: str, setting: Setting) -> FinishedRun:
    """Write the checkpoint of `who` again, and its stamp."""
    quantizer, out = QUANTIZERS[who], setting.folder / who
    _stamp_file(who, setting).unlink(missing_ok=True)
    inputs = _inputs(who, setting)
    shutil.rmtree(out, ignore_errors=True)
    script = str(PEERS / quantizer.script)
    command = [peer_python(quantizer.environment), script, str(setting.source)]
    command += [str(setting.tokens_file), str(out), *quantizer.options]
    if quantizer.environment:
        scheme = parse_scheme(setting.scheme)
        command += ["--scheme", "sym" if scheme.symmetric else "asym"]
        command += ["--group-size", str(scheme.group_size)]
    else:
        command += ["--scheme", setting.scheme]
    if who == "autoround":
        command += ["--seed", str(AUTOROUND_SEED + setting.seed)]
    finished = run(command, setting.folder / f"{who}.log")
    write_stamp(who, setting, inputs, {**finished.cost(), **json.loads(last_line(finished))})
    return finished


def checkpoint(who: str, setting: Setting) -> Path:
    """The checkpoint of `who`: the existing one if its inputs are unchanged, else a new one."""
    if is_current(who, setting):
        log_step(f"reusing {setting.folder / who}")
    else:
        write_checkpoint(who, setting)
    return setting.folder / who


def is_current(who: str, setting: Setting) -> bool:
    """Whether the checkpoint of `who` exists and its inputs are unchanged."""
    stamp = read_stamp(who, setting)
    fits = stamp is not None and stamp["inputs"] == _inputs(who, setting)
    return fits and (setting.folder / who / "config.json").exists()


def read_stamp(who: str, setting: Setting) -> dict[str, Any] | None:
    """`inputs` and `cost` of the checkpoint of `who`."""
    path = _stamp_file(who, setting)
    return json.loads(path.read_text()) if path.exists() else None


def write_stamp(who: str, setting: Setting, inputs: dict[str, str], cost: dict[str, Any]) -> None:
    """Say what the checkpoint of `who` was made of."""
    stamp = {"inputs": inputs, "cost": cost}
    _stamp_file(who, setting).write_text(json.dumps(stamp, indent=2) + "\n")


def _stamp_file(who: str, setting: Setting) -> Path:
    return setting.folder / f"{who}.stamp.json"


def _inputs(who: str, setting: Setting) -> dict[str, str]:
    quantizer, model = QUANTIZERS[who], setting.source
    code = [PEERS / quantizer.script, PEERS / "token_file.py"]
    if quantizer.environment:
        code.append(PINS / f"{quantizer.environment}.txt")
    else:
        code += sorted(Path(salient.__file__).parent.rglob("*.py"))
    return {
        "model": digest([model / "config.json", *sorted(model.glob("*.safetensors"))]),
        "scheme": setting.scheme,
        "tokens": hashlib.sha256(
            load_file(setting.tokens_file)["tokens"].numpy().tobytes()
        ).hexdigest(),
        "options": " ".join(quantizer.options),
        "code": digest(code),
    }


@cache
def peer_python(environment: str) -> str:
    """The Python of a peer's environment, created by the first call; '' is this one."""
    if not environment:
        return sys.executable
    script = [str(ROOT / "interop" / "environment.sh"), environment]
    return subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def last_line(finished: FinishedRun) -> str:
    """The JSON document of a script of PEERS."""
    return finished.out.strip().splitlines()[-1]


def digest(files: Iterable[Path]) -> str:
    """SHA-256 over the contents of `files`, in their order."""
    sums = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            sums.update(hashlib.file_digest(file, "sha256").digest())
    return sums.hexdigest()
