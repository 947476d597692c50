"""Checks of a run's options against model, texts and machine, before any long work.

An unfinished run lives in `OUT.partial`; a rename makes it `OUT` when it is complete.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from salient.core.carried_files import find_carried
from salient.core.content_digest import changed_files
from salient.core.corpus import BUILTIN
from salient.core.devices import compute_dtype, find_device
from salient.core.errors import CalibrationError, CheckpointError, ModelError
from salient.core.evidence import (
    EVIDENCE_FILE,
    AllocationEvidence,
    RunEvidence,
    RunHeader,
    read_evidence,
)
from salient.core.options import strings
from salient.core.progress import Progress
from salient.core.report import mebibytes
from salient.core.text_places import texts_label
from salient.core.version import __version__
from salient.formats import find_format
from salient.formats.checkpoint import Checkpoint, fingerprint, open_checkpoint
from salient.formats.output_folder import check_output, is_vacant, model_name, partial_folder
from salient.models.calibration_texts import calibration_tokens
from salient.models.companions import Companions
from salient.models.file_check import Leftovers, check_values
from salient.models.model_folder import model_folder
from salient.models.self_text import own_text, self_samples
from salient.models.skeleton import Skeleton
from salient.models.source_model import SourceModel, source_model
from salient.models.stored_types import float32_parameters
from salient.models.token_packing import TokenBatch, merge_batches
from salient.models.tokens import check_vocabulary, load_tokenizer, tokenizer_note
from salient.models.trial import try_model

from .calibration_check import token_warnings
from .effort import Effort, find_effort
from .journal import Journal, difference, other_source, read_journal
from .layer_selection import LayerSelection, choose_layers, written_dtype
from .memory_estimate import MemoryEstimate, check_memory, estimate_memory, stored_bytes
from .mixed_scheme import mixed_scheme
from .options import QuantizeOptions
from .partial_shards import PartialCheckpoint
from .results import OutputTarget
from .run_state import QuantizeRun
from .source_watch import SourceWatch
from .time_estimate import estimate_seconds

OTHER_OUTPUT = "Set another output with -o, or --fresh to replace it."


@dataclass(frozen=True)
class QuantizeJob:
    """A run whose options have passed every check.

    values_checked: whether all tensors were read in search of NaN
    allocation: what `--bits-per-weight` gave the linears, once it is measured
    """

    source: Checkpoint
    watch: SourceWatch
    skeleton: Skeleton
    leftovers: Leftovers
    companions: Companions
    batch: TokenBatch
    layers: LayerSelection
    target: OutputTarget
    format: str
    effort: Effort
    output: Path
    estimate: MemoryEstimate
    header: RunHeader
    dtype_reason: str
    values_checked: bool
    warnings: tuple[str, ...] = ()
    allocation: AllocationEvidence | None = None

    @property
    def partial(self) -> Path:
        """The folder of the unfinished run."""
        return partial_folder(self.output)

    @property
    def stored_bytes(self) -> int:
        """What the run stores on disk while it lasts, besides the checkpoint."""
        return stored_bytes(self.skeleton, *self.batch.split(), self.effort)

    def estimate_seconds(self) -> dict[str, float]:
        """How long the run may take, by effort."""
        return estimate_seconds(self.skeleton, self.batch.split()[0])

    def run(self, *, fresh: bool, progress: Progress) -> QuantizeRun:
        """Create or reopen the journal. Raises ResumeMismatch if it is another run's."""
        samples, heldout = self.batch.split()
        journal = Journal(self.partial, self.header, fresh=fresh)
        pieces = PartialCheckpoint(
            self.partial, self.source, self.skeleton, self.format, self.target
        )
        return QuantizeRun(
            skeleton=self.skeleton,
            effort=self.effort,
            samples=samples,
            heldout=heldout,
            target=self.target,
            pieces=pieces,
            journal=journal,
            watch=self.watch,
            progress=progress,
        )


def prepare(options: QuantizeOptions) -> QuantizeJob:
    """Check `options` and try the model on a few tokens. Raises SalientError."""
    find_format(options.format, "quantize")
    effort = find_effort(options.effort)
    mixed = mixed_scheme(options.bits_per_weight, options.allow, options.scheme, options.format)
    device = find_device(options.device)
    model = _open_source(options, device)
    source, skeleton = model.source, model.skeleton
    options.progress(0, 0, f"hashing {mebibytes(source.bytes_on_disk)} of the source")
    watch = SourceWatch(source, model.adapter)
    omitted = find_carried(source.folder).omitted
    layers = choose_layers(skeleton, options.scheme, options.format, strings(options.skip), mixed)
    dtype, dtype_reason = written_dtype(skeleton.files, options.dtype)
    default = f"{model_name(source.folder)}-{options.format}-{layers.label}"
    output = check_output(Path(options.output or default).expanduser(), source.folder)
    if not options.fresh:
        _check_source(watch, output)
    batch = _tokens(options, model)
    float32 = float32_parameters(skeleton.model, skeleton.files)
    target = OutputTarget(layers.scheme, dtype, layers.quantized, float32)
    passes = effort if mixed is None else replace(effort, gradients=True)
    estimate = estimate_memory(skeleton, *batch.split(), passes)
    values_checked = check_values(source, skeleton.files.names().values())
    check_memory(estimate, device)
    try_model(skeleton, batch.ids)
    return QuantizeJob(
        source=source,
        watch=watch,
        skeleton=skeleton,
        leftovers=model.leftovers,
        companions=model.companions,
        batch=batch,
        layers=layers,
        target=target,
        format=options.format,
        effort=effort,
        output=output,
        estimate=estimate,
        warnings=(
            *batch.notes,
            *token_warnings(batch, skeleton, layers.quantized),
            *(f"Not copied into the checkpoint: {n} ({why})." for n, why in omitted.items()),
        ),
        header=_header(options, model, target, batch, watch.digests, str(mixed or target.scheme)),
        dtype_reason=dtype_reason,
        values_checked=values_checked,
    )


def _header(
    options: QuantizeOptions,
    model: SourceModel,
    target: OutputTarget,
    batch: TokenBatch,
    source_files: dict[str, str],
    scheme: str,
) -> RunHeader:
    """What the run is."""
    skeleton = model.skeleton
    return RunHeader(
        salient=__version__,
        model=fingerprint(model.source),
        adapter=model.adapter.digest if model.adapter else None,
        scheme=scheme,
        format=options.format,
        dtype=str(target.dtype).removeprefix("torch."),
        skip=strings(options.skip),
        calibration_texts=texts_label(options.calibration),
        calibration_mix=1.0 if options.calibration == BUILTIN else options.calibration_mix,
        self_text=options.self_text,
        samples=options.samples,
        sequence_length=options.sequence_length,
        calibration=batch.digest,
        computed_in=f"{str(skeleton.dtype).removeprefix('torch.')} on {skeleton.device.type}",
        source_files=source_files,
        effort=options.effort,
    )


def _open_source(options: QuantizeOptions, device: torch.device) -> SourceModel:
    """The 16-bit model, with the adapter merged if there is one."""
    source = open_checkpoint(model_folder(str(options.model)))
    if source.format is not None and not options.dequantize_source:
        kind = ", ".join(filter(None, (source.schemes and str(source.schemes), source.format.name)))
        raise ModelError(
            f"{source.folder} is already quantized ({kind}). Give the 16-bit model; if there is "
            "none, --dequantize-source takes this one's dequantized weights, with its error."
        )
    drop = strings(options.drop)
    return source_model(source, options.adapter, drop, compute_dtype(device), device)


def _tokens(options: QuantizeOptions, model: SourceModel) -> TokenBatch:
    skeleton = model.skeleton
    longest = skeleton.longest_context
    if longest and options.sequence_length > longest:
        raise CalibrationError(
            f"--sequence-length {options.sequence_length} is longer than the model's {longest} "
            f"positions. Give at most {longest}."
        )
    tokenizer = load_tokenizer(model.companions.folder)
    own = self_samples(options.samples) if options.self_text else 0
    batch = calibration_tokens(
        options.calibration,
        tokenizer,
        options.samples - own,
        options.sequence_length,
        mix=options.calibration_mix,
    )
    check_vocabulary(batch.ids, skeleton.vocabulary, options.calibration)
    if own:
        whole = Skeleton(model.source, skeleton.dtype, skeleton.device, model.adapter)
        key = f"{fingerprint(model.source)} {model.adapter.digest if model.adapter else ''}"
        size = (own, options.sequence_length)
        text = own_text(whole, tokenizer, key, size, options.progress)
        batch = merge_batches([batch, text])
    note = tokenizer_note(tokenizer, skeleton.vocabulary)
    return batch if note is None else replace(batch, notes=(*batch.notes, note))


def _check_source(watch: SourceWatch, output: Path) -> None:
    """Refuse another source than that of the run at `output`, before more of it is read.

    Raises CheckpointError, ResumeMismatch if the run is unfinished.
    """
    if not is_vacant(output):
        evidence = _written_evidence(output)
        if reason := other_source(evidence.source_files, watch.digests):
            raise CheckpointError(
                f"{output} exists already and is another run's: {reason}. {OTHER_OUTPUT}"
            )
    elif unfinished := read_journal(partial_folder(output)):
        watch.check_same(partial_folder(output), unfinished)


def _written_evidence(output: Path) -> RunEvidence:
    """The evidence in `output`. Raises CheckpointError for another folder, or changed evidence."""
    try:
        evidence = read_evidence(output) if output.is_dir() else None
    except CheckpointError as error:
        raise CheckpointError(f"{output} exists already: {error} {OTHER_OUTPUT}") from error
    if evidence is None:
        raise CheckpointError(
            f"{output} exists already and was not written by salient, so it is not replaced. "
            "Set another output with -o."
        )
    return evidence


def finished_evidence(job: QuantizeJob, *, fresh: bool) -> RunEvidence | None:
    """The evidence of this run's finished checkpoint, or None if the run is still to do.

    Raises CheckpointError if the output exists and is another run's, or its files are not as they
    were written, unless `fresh` replaces it.
    """
    if is_vacant(job.output) or (fresh and (job.output / EVIDENCE_FILE).exists()):
        return None
    evidence = _written_evidence(job.output)
    if reason := difference(evidence.run, job.header):
        raise CheckpointError(
            f"{job.output} exists already and is another run's: {reason}. {OTHER_OUTPUT}"
        )
    for name, reason in changed_files(job.output, evidence.files).items():
        raise CheckpointError(
            f"{job.output} is finished, but its {name} {reason} since. {OTHER_OUTPUT}"
        )
    return evidence
