"""500 bits, each changed between two commands: every one is noticed, and its file named.

    .venv/bin/python benchmarks/changed_bits.py [--count 500] [--seed 1] [--verbose]

Four steps of a tiny model, one of them at random: `quantize` that resumes an unfinished run,
`quantize` that is started again when it is finished, `validate` (with the reference answers of the
cache), and `serve`. Before it one bit changes at a random place of a random file: of the source
(weights, config, tokenizer, chat template, generation config), of the unfinished run (pieces,
journal), or of the checkpoint (weights, config, tokenizer, template, salient.json). Its refusal,
warnings or report must name the file, which they do not without a change. Prints what was missed;
exit code 1 if anything was. About ten minutes on one core.
"""

import argparse
import json
import logging
import random
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.toy_models import toy_folder, toy_text
from salient import api
from salient.core.errors import SalientError
from salient.core.progress import Progress
from salient.serve import embedded
from salient.serve.options import ServeOptions
from subprocess_run import log_step

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
OPTIONS: dict[str, Any] = {
    "scheme": "w4-g32",
    "samples": 2,
    "sequence_length": 64,
    "effort": "fast",
    "calibration_mix": 1.0,
}
LEFT_OUT = (".lock", "README.md")


class Stop(Exception):
    """Ends a run between two blocks."""


@dataclass(frozen=True)
class Folders:
    """A source, the unfinished run of `out`, and a finished checkpoint."""

    home: Path

    @property
    def source(self) -> Path:
        return self.home / "source"

    @property
    def unfinished(self) -> Path:
        return self.home / "out.partial"

    @property
    def checkpoint(self) -> Path:
        return self.home / "checkpoint"

    @property
    def text(self) -> Path:
        return self.home / "toy.txt"

    def quantize(self, name: str, **options: Any) -> list[str]:
        """Quantize to the folder `name`; the warnings of the run."""
        result = api.quantize(
            self.source, self.home / name, calibration=str(self.text), **OPTIONS, **options
        )
        return list(result.report.data["warnings"])

    def write(self) -> None:
        """Write all three."""
        toy_folder(self.source)
        (self.source / "chat_template.jinja").write_text(TEMPLATE)
        toy_text(self.home)
        self.quantize("checkpoint")
        with suppress(Stop):
            self.quantize("out", progress=Progress(stop))


def stop(done: int, total: int, doing: str, note: str) -> None:
    """Stop a run when all blocks are in the journal."""
    if doing.startswith("measuring"):
        raise Stop


def resume(folders: Folders) -> str:
    """Resume the unfinished run, as far as its last block."""
    with suppress(Stop):
        return " ".join(folders.quantize("out", progress=Progress(stop)))
    return ""


def start_again(folders: Folders) -> str:
    """Start the finished run again."""
    return " ".join(folders.quantize("checkpoint"))


def validate(folders: Folders) -> str:
    """Compare the checkpoint with the source, with the reference's answers of the cache."""
    result = api.validate(
        folders.checkpoint,
        reference=folders.source,
        text=[str(folders.text)],
        tasks=None,
        context_lengths=None,
        samples=1,
        sequence_length=64,
    )
    return json.dumps(result.report.data)


def serve(folders: Folders) -> str:
    """Load the checkpoint as a server does, up to its first request."""
    with socket.socket() as listening:
        options = ServeOptions(folders.checkpoint, concurrency=1, context_length=64)
        embedded.serve_embedded(options, listening, None)
    return ""


STEPS: dict[str, tuple[Callable[[Folders], str], tuple[str, ...]]] = {
    "resume": (resume, ("source", "unfinished")),
    "start again": (start_again, ("source", "checkpoint")),
    "validate": (validate, ("source", "checkpoint")),
    "serve": (serve, ("checkpoint",)),
}


class LogLines(logging.Handler):
    """The warnings since the last `clear`."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def outcome(step: Callable[[Folders], str], folders: Folders, log: LogLines) -> str:
    """All that the user reads of a step."""
    log.lines.clear()
    try:
        text = step(folders)
    except SalientError as error:
        text = str(error)
    return "\n".join([text, *log.lines])


def flip(path: Path, chance: random.Random) -> str:
    """Change one bit of a file; where."""
    content = bytearray(path.read_bytes())
    place, bit = chance.randrange(len(content)), chance.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.name}, bit {bit} of byte {place} of {len(content)}"


def main() -> int:
    """Change the bits; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="print every outcome")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    embedded.run_app = lambda *_: None
    log, chance, counts = LogLines(), random.Random(options.seed), Counter[str]()
    logging.getLogger("salient").addHandler(log)
    with tempfile.TemporaryDirectory() as place:
        original, folders = Folders(Path(place) / "original"), Folders(Path(place) / "work")
        original.home.mkdir()
        original.write()
        shutil.copytree(original.home, folders.home)
        unchanged = {name: outcome(step, folders, log) for name, (step, _) in STEPS.items()}
        for number in range(options.count):
            if number % 50 == 0:
                log_step(f"{number} bits: {dict(counts)}")
            shutil.rmtree(folders.home, ignore_errors=True)
            shutil.copytree(original.home, folders.home)
            name = chance.choice(list(STEPS))
            step, homes = STEPS[name]
            home = getattr(folders, chance.choice(homes))
            files = [p for p in sorted(home.iterdir()) if p.name not in LEFT_OUT and p.is_file()]
            path = chance.choice(files)
            what = f"{name}: {home.name}/{flip(path, chance)}"
            message = outcome(step, folders, log)
            noticed = path.name in message and path.name not in unchanged[name]
            counts["noticed" if noticed else "missed"] += 1
            if not noticed or options.verbose:
                print(f"{what}: {'noticed' if noticed else 'MISSED'}: {message[:600]}", flush=True)
    print(f"{options.count} bits: {dict(counts)}")
    return 1 if counts["missed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
