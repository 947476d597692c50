"""A quantization from request to finished folder: check everything cheap first, run the blocks,
finish.

The unfinished run lives in `OUT.partial`; `OUT` appears by a rename when it is complete.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from salient import __version__
from salient.core.errors import CalibrationError, CheckpointError, ModelError, ShapeError
from salient.core.scheme import Scheme, check_width, largest_scheme, parse_scheme
from salient.core.texts import read_texts
from salient.formats import find_format
from salient.formats.checkpoint import Checkpoint, open_checkpoint, read_json
from salient.models.adapter import Adapted, open_adapter
from salient.models.skeleton import Skeleton
from salient.models.source import model_folder

from .block import Target
from .calibration import TokenBatch, check_vocabulary, split_heldout, tokenize
from .journal import Journal
from .memory import Estimate, check_memory, estimate_memory
from .pipeline import Progress, Run

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
ACROSS = 8  # AutoAWQ packs eight outputs a word


@dataclass(frozen=True)
class Request:
    """What the user asks for; the words of the command line."""

    model: str
    output: str | None = None
    scheme: str = "w4-g128"
    format: str = "awq"
    calibration: str = "builtin"
    samples: int = 128
    sequence_length: int = 512
    skip: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "auto"
    adapter: str | None = None


@dataclass(frozen=True)
class Job:
    """A request that has passed every check, ready to run.

    header: what the run is, for the journal and for salient.json
    """

    source: Checkpoint
    skeleton: Skeleton
    batch: TokenBatch
    target: Target
    format: str
    output: Path
    quantized: frozenset[str]
    left: dict[str, str]
    scheme_reason: str
    estimate: Estimate
    header: dict[str, Any]

    @property
    def partial(self) -> Path:
        """Where the unfinished run lives."""
        return self.output.with_name(self.output.name + ".partial")

    def run(self, *, fresh: bool, progress: Progress) -> Run:
        """Open or continue the journal. Raises ResumeMismatch if the unfinished run is another
        one."""
        samples, heldout = split_heldout(self.batch)
        journal = Journal(self.partial, self.header, fresh=fresh)
        return Run(
            self.source,
            self.skeleton,
            samples,
            heldout,
            self.target,
            self.format,
            self.quantized,
            journal,
            progress,
        )


def prepare(request: Request) -> Job:
    """Check `request` against the model, the texts and the machine, and read nothing large. Raises
    SalientError."""
    find_format(request.format)
    folder = model_folder(request.model)
    source = open_checkpoint(folder)
    if source.format is not None:
        raise ModelError(
            f"{folder} is already quantized ({source.scheme}, {source.format.name}). Give the "
            "16-bit model."
        )
    adapter = open_adapter(Path(request.adapter)) if request.adapter else None
    if adapter is not None:
        source = Adapted.over(source, adapter)
    device = pick_device(request.device)
    skeleton = Skeleton(source, compute_dtype(device), device)
    scheme, reason, quantized, left = _scheme_and_layers(skeleton, request)
    dtype = _written_dtype(source, request.dtype)
    batch = _tokens(request, folder, skeleton)
    samples, heldout = split_heldout(batch)
    estimate = estimate_memory(skeleton, samples, heldout)
    output = Path(
        request.output or f"{Path(request.model).name or folder.name}-{request.format}-{scheme}"
    )
    header = {
        "salient": __version__,
        "model": fingerprint(source),
        "adapter": adapter.digest if adapter else None,
        "scheme": str(scheme),
        "format": request.format,
        "dtype": str(dtype).removeprefix("torch."),
        "skip": list(request.skip),
        "calibration": batch.digest,
        "calibration_texts": request.calibration,
        "samples": request.samples,
        "sequence_length": request.sequence_length,
        "computed_in": f"{str(skeleton.dtype).removeprefix('torch.')} on {device.type}",
    }
    target = Target(scheme, dtype, quantized)
    return Job(
        source,
        skeleton,
        batch,
        target,
        request.format,
        output,
        quantized,
        left,
        reason,
        estimate,
        header,
    )


def pick_device(name: str) -> torch.device:
    """The device called `name`; 'auto' is the first GPU, else the CPU. Raises ModelError if it is
    not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"Device {name!r} cannot be used ({str(error).splitlines()[0]}). Use --device auto or "
            "cpu."
        ) from error
    return device


def compute_dtype(device: torch.device) -> torch.dtype:
    """The type to run blocks in: bfloat16 where the hardware multiplies it, else float32."""
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float32
        )
    native = (
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return torch.bfloat16 if any(test() for test in native if test) else torch.float32


def _scheme_and_layers(
    skeleton: Skeleton, request: Request
) -> tuple[Scheme, str, frozenset[str], dict[str, str]]:
    """The scheme and why, the linears to quantize, and those left at 16 bits with the reason."""
    linears = {}
    for index, block in enumerate(skeleton.blocks):
        linears |= {f"{block}.{name}": linear for name, linear in skeleton.linears(index).items()}
    left = {n: f"--skip {p}" for n in linears for p in request.skip if matches(n, p)}
    unused = [
        p
        for p in request.skip
        if not any(matches(n, p) for n in [*linears, *skeleton.outer_modules()])
    ]
    if unused:
        raise ShapeError(
            f"--skip {unused[0]!r} names no linear of the model. Its linears are called like "
            f"{next(iter(linears))!r}."
        )
    wanted = {n: m for n, m in linears.items() if n not in left}
    if not wanted:
        raise ShapeError("--skip names every linear of the model: nothing is left to quantize.")
    widths = {n: m.in_features for n, m in wanted.items()}
    scheme, reason = (
        largest_scheme(widths)
        if request.scheme == "auto"
        else (parse_scheme(request.scheme), "as asked")
    )
    for name, linear in wanted.items():
        check_width(name, linear.in_features, scheme)
        if linear.out_features % ACROSS and request.format == "awq":
            raise ShapeError(
                f"{name!r} has {linear.out_features} outputs; the awq format packs {ACROSS} a "
                "word. "
                f"Use --format compressed-tensors, or leave it at 16 bits with --skip {name!r}."
            )
    return scheme, reason, frozenset(wanted), left


def matches(name: str, pattern: str) -> bool:
    """Whether --skip `pattern` means the linear `name`: its whole name, its last parts, or a glob
    of either."""
    return (
        name == pattern
        or name.endswith(f".{pattern}")
        or fnmatch(name, pattern)
        or fnmatch(name, f"*.{pattern}")
    )


def _written_dtype(source: Checkpoint, name: str) -> torch.dtype:
    """The 16-bit type of the checkpoint: the source's own, float16 for a float32 source (as vLLM
    chooses)."""
    if name != "auto":
        if name not in DTYPES:
            raise ShapeError(f"Unknown dtype {name!r}. Known: auto, {', '.join(DTYPES)}.")
        return DTYPES[name]
    said = str(source.config.get("dtype") or source.config.get("torch_dtype") or "")
    return DTYPES.get(said, torch.float16)


def _tokens(request: Request, folder: Path, skeleton: Skeleton) -> TokenBatch:
    longest = skeleton.longest_context
    if longest and request.sequence_length > longest:
        raise CalibrationError(
            f"--sequence-length {request.sequence_length} is longer than the model's {longest} "
            f"positions. Give at most {longest}."
        )
    documents = read_texts(request.calibration)
    batch = tokenize(
        documents,
        load_tokenizer(folder),
        request.samples,
        request.sequence_length,
        request.calibration,
    )
    check_vocabulary(batch, skeleton.vocabulary, request.calibration)
    return batch


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`. Raises ModelError if there is none that the installed Transformers
    can read."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{folder} has no tokenizer that can be read ({reason}). Fetch tokenizer.json and its "
            "config."
        ) from error


def fingerprint(source: Checkpoint) -> str:
    """SHA-256 over config.json, and of each weight file its name, size, header and 64 stretches of
    64 KiB.

    A full hash would read a large model once more; this tells any other model or training step
    apart.
    """
    digest = hashlib.sha256(json.dumps(source.config, sort_keys=True).encode())
    for path in sorted(set(source.files.values())):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            head = file.read(8)
            digest.update(head + file.read(int.from_bytes(head, "little")))
            for part in range(64):
                file.seek(size * part // 64)
                digest.update(file.read(2**16))
    return digest.hexdigest()


def finished(job: Job, *, fresh: bool) -> dict[str, Any] | None:
    """The evidence of a finished checkpoint under the output's name if it is this very run's, else
    None.

    Raises CheckpointError if something else is there, unless `fresh` is to replace it.
    """
    if not job.output.exists():
        return None
    evidence = job.output / "salient.json"
    if fresh and evidence.exists():
        return None
    found = read_json(evidence) if evidence.exists() else {}
    if found.get("run") != job.header:
        field = next((k for k, v in job.header.items() if found.get("run", {}).get(k) != v), "run")
        raise CheckpointError(
            f"{job.output} exists already and is not this run's: {field} = "
            f"{found.get('run', {}).get(field)!r} there, "
            f"{job.header[field]!r} here. Give another output with -o"
            + (
                ", or --fresh to replace it."
                if found
                else "; it was not written by salient, so it is not replaced."
            )
        )
    shutil.rmtree(job.partial, ignore_errors=True)
    return found


__all__ = ["Job", "Request", "check_memory", "finished", "prepare"]
