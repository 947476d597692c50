"""The verb `receipt`: measure a checkpoint on a panel, or measure a receipt again."""

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from salient.core.errors import RequestError
from salient.core.progress import silent
from salient.core.report import Report
from salient.core.version import __version__
from salient.formats.checkpoint import fingerprint
from salient.formats.writer import write_text
from salient.models.tokens import load_tokenizer
from salient.validate.likelihood.panel_making import BUILTIN_PANEL, PanelRequest, cached_panel
from salient.validate.likelihood.panel_stream import StateStore, chunks, measure_model
from salient.validate.likelihood.position_figures import PositionFigures
from salient.validate.likelihood.stratum_figures import stratum_figures
from salient.validate.likelihood.streaming import BATCH_TOKENS
from salient.validate.likelihood.token_panel import TokenPanel, check_panel, read_panel
from salient.validate.model_pair import ModelPair, PairMember, open_pair
from salient.validate.run_environment import run_environment

from .noise_floor import noise_floor, noise_windows
from .options import ReceiptOptions
from .paired_test import check_same_ground, paired_test
from .receipt_exports import llama_cpp_text, model_index_text
from .receipt_figures import document_sums, llama_cpp_figures
from .receipt_record import (
    EngineRecord,
    ModelRecord,
    PairedTest,
    PanelRecord,
    Receipt,
    read_receipt,
    receipt_text,
    sealed_receipt,
)
from .receipt_report import receipt_report, verification_report
from .text_overlap import check_overlap
from .verification import Verification, compare_receipts

_log = logging.getLogger("salient")


@dataclass
class ReceiptRun:
    """The measurement of one checkpoint."""

    options: ReceiptOptions
    pair: ModelPair
    panel: TokenPanel
    store: StateStore
    positions: PositionFigures
    receipt: Receipt


def write_receipt(options: ReceiptOptions) -> tuple[Receipt, Verification | None, Report]:
    """Measure, write the receipt and its exports; with `verify` compare instead of writing.

    Raises SalientError for what cannot be measured; then nothing is written.
    """
    if options.verify is not None:
        return _verify(options)
    if options.checkpoint is None or options.reference is None:
        raise RequestError(
            "A receipt needs a checkpoint and --reference MODEL; or --verify FILE, which has both."
        )
    checkpoint = str(options.checkpoint)
    output = Path(options.output or f"{Path(checkpoint).absolute().name}-receipt.json")
    other = _other_receipt(options.against)
    _check_writable(output, *filter(None, (options.model_index, options.llama_cpp)))
    run = _measure(options, reuse=not options.fresh)
    receipt = run.receipt
    if options.against is not None:
        receipt = replace(receipt, paired=_against(run, other))
    receipt = sealed_receipt(receipt)
    write_text(output, receipt_text(receipt))
    lines = [f"Receipt: {output}"]
    for path, text in (
        (options.model_index, model_index_text),
        (options.llama_cpp, llama_cpp_text),
    ):
        if path is not None:
            write_text(Path(path), text(receipt))
            lines.append(f"Written: {path}")
    return receipt, None, receipt_report(receipt, lines)


def _verify(options: ReceiptOptions) -> tuple[Receipt, Verification, Report]:
    before = read_receipt(Path(str(options.verify)))
    panel = options.panel
    if panel == BUILTIN_PANEL:
        panel = before.panel.name
    options = replace(
        options,
        checkpoint=options.checkpoint or before.checkpoint.name,
        reference=options.reference or before.reference.name,
        adapter=options.adapter or before.reference.adapter,
        panel=panel,
        positions=before.panel.requested,
        sequence_length=before.panel.window,
    )
    with ExitStack() as stack:
        threads = torch.get_num_threads()
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(max(1, before.engine.threads))
        run = _measure(options, reuse=False, expected=before)
    verification = compare_receipts(before, run.receipt)
    return run.receipt, verification, verification_report(before, run.receipt, verification)


def _measure(
    options: ReceiptOptions, *, reuse: bool, expected: Receipt | None = None
) -> ReceiptRun:
    started, progress = time.monotonic(), options.progress
    progress(0, 1, "reading both models")
    pair = open_pair(
        str(options.checkpoint), str(options.reference), options.device, options.adapter
    )
    reference, checkpoint = pair.reference, pair.checkpoint
    reference.skeleton.head.check_generates(reference.name)
    models = [_model_record(side) for side in (checkpoint, reference)]
    if expected is not None:
        _check_digests(expected, *models)
    panel = open_panel(options, pair, expected)
    tokenizer = load_tokenizer(reference.companions)
    check_panel(panel, tokenizer, pair.longest_context, reference.name)
    calibration = None if options.calibration is None else str(options.calibration)
    overlap = check_overlap(panel, tokenizer, checkpoint.companions, calibration)
    store = StateStore.open(
        "reference", reference.skeleton, reference.fingerprint, panel, reuse=reuse
    )
    own = StateStore(checkpoint.name, checkpoint.skeleton, panel)
    if options.against is not None and expected is None:
        own = StateStore.open(
            "checkpoint", checkpoint.skeleton, checkpoint.fingerprint, panel, reuse=reuse
        )
    windows = noise_windows(panel)
    (positions,), sampled = measure_model([store], own, progress.part(0, 8, 10), windows)
    before, after = (reference.skeleton, sampled_states(store, windows)), sampled
    noise = noise_floor(
        panel, windows, before, (checkpoint.skeleton, after), progress.part(8, 2, 10)
    )
    documents = panel.document_of
    figures = stratum_figures(positions, documents)
    chosen = {name: panel.stratum_of(name) for name in panel.strata}
    receipt = Receipt(
        salient=__version__,
        date=date.today().isoformat(),
        seconds=round(time.monotonic() - started, 1),
        checkpoint=models[0],
        reference=models[1],
        panel=_panel_record(options, panel),
        engine=engine_record(pair),
        noise=noise,
        measurable=figures.kl.value > noise.kl,
        figures=figures,
        strata={
            name: stratum_figures(positions.select(some), documents[some])
            for name, some in chosen.items()
            if some.any()
        },
        llama_cpp=llama_cpp_figures(positions),
        calibration=overlap,
        documents=document_sums(positions, panel),
    )
    return ReceiptRun(options, pair, panel, store, positions, receipt)


def open_panel(
    options: ReceiptOptions, pair: ModelPair, expected: Receipt | None = None
) -> TokenPanel:
    """The panel that the options name. Raises SalientError, also where it is not `expected`'s."""
    name = str(options.panel)
    if name.endswith(".safetensors"):
        panel = read_panel(Path(name))
    else:
        texts = () if name == BUILTIN_PANEL else (name,)
        request = PanelRequest(
            texts, options.sequence_length, options.positions, own_text=not texts
        )
        panel = cached_panel(pair.reference, request, options.progress)
    for note in panel.head.notes:
        _log.warning("warning: %s", note)
    if expected is not None and panel.digest != expected.panel.digest:
        raise RequestError(
            f"The panel {name} has other tokens here ({panel.digest[:12]}) than in the receipt "
            f"({expected.panel.digest[:12]}). Give the file that the receipt was made with: "
            "--panel FILE (salient panel make writes it)."
        )
    return panel


def sampled_states(store: StateStore, windows: list[int]) -> torch.Tensor:
    """The stored states of some windows of the panel."""
    parts = [
        store.states(rows, silent)[[w - rows.start for w in windows if rows.start <= w < rows.stop]]
        for rows in chunks(store.panel, store.skeleton.width)
        if any(rows.start <= window < rows.stop for window in windows)
    ]
    return torch.cat(parts)


def engine_record(pair: ModelPair) -> EngineRecord:
    """What computes the figures here."""
    skeleton = pair.reference.skeleton
    machine = run_environment(str(skeleton.device))
    packages = ("torch", "transformers", "tokenizers", "numpy", "safetensors")
    capability = torch.backends.cpu.get_cpu_capability()
    if skeleton.device.type == "cuda":
        capability = torch.cuda.get_device_name(skeleton.device)
    return EngineRecord(
        engine=f"salient {__version__}, streamed block by block",
        kernel=f"torch matmul of dequantized weights, {_attention(skeleton.model)} attention",
        weights="dequantized to float32",
        activations=str(skeleton.dtype).removeprefix("torch."),
        accumulation="float64 over the whole vocabulary",
        device=str(skeleton.device),
        processor=machine.processor,
        capability=capability,
        threads=torch.get_num_threads(),
        batch_tokens=BATCH_TOKENS,
        versions={"python": machine.system, **{name: version(name) for name in packages}},
    )


def _attention(model: torch.nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "_attn_implementation", "its own"))


def _model_record(side: PairMember) -> ModelRecord:
    summary, adapter = side.summary, side.model.adapter
    return ModelRecord(
        side.name,
        fingerprint(side.source),
        summary.architecture,
        summary.format,
        summary.scheme,
        summary.bits_per_weight,
        side.source.bytes_on_disk,
        None if adapter is None else str(adapter.folder),
    )


def _panel_record(options: ReceiptOptions, panel: TokenPanel) -> PanelRecord:
    strata = {name: int(panel.stratum_of(name).sum()) for name in panel.strata}
    return PanelRecord(
        str(options.panel),
        panel.digest,
        panel.head.tokenizer,
        panel.ids.shape[1],
        panel.positions,
        int(panel.documents.unique().numel()),
        {name: count for name, count in strata.items() if count},
        panel.head.notes,
        options.positions,
    )


def _check_digests(expected: Receipt, *models: ModelRecord) -> None:
    for before, now in zip((expected.checkpoint, expected.reference), models, strict=True):
        if before.digest != now.digest:
            raise RequestError(
                f"{now.name} is not the model of the receipt: its config.json and weights have "
                f"the digest {now.digest[:12]}, there {before.digest[:12]}. Give the one that the "
                "receipt is of, or make a new receipt."
            )


def _check_writable(*paths: object) -> None:
    for path in map(Path, map(str, paths)):
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise RequestError(f"{path} cannot be written: give a file in a folder that exists.")


def _other_receipt(against: object) -> Receipt | None:
    """The receipt that `against` is, None for a checkpoint."""
    if against is None or not str(against).endswith(".json"):
        return None
    return read_receipt(Path(str(against)))


def _against(run: ReceiptRun, other: Receipt | None) -> PairedTest:
    """The paired test against another checkpoint's receipt, or the checkpoint measured here."""
    options, own, noise = run.options, run.receipt, run.receipt.noise
    name, floors = str(options.against), (noise.kl, noise.kl_shift)
    if other is not None:
        check_same_ground(own, other, name)
        shift = max(noise.kl_shift, other.noise.kl_shift)
        names = name, other.checkpoint.digest
        return paired_test(own.documents, other.documents, names, (noise.kl, shift), None)
    pair = open_pair(name, str(options.reference), options.device, options.adapter)
    rival = StateStore(name, pair.checkpoint.skeleton, run.panel)
    checkpoint = run.pair.checkpoint
    stored = StateStore.open(
        "checkpoint", checkpoint.skeleton, checkpoint.fingerprint, run.panel, reuse=True
    )
    (figures, between), _ = measure_model([run.store, stored], rival, options.progress)
    return paired_test(
        own.documents,
        document_sums(figures, run.panel),
        (name, fingerprint(pair.checkpoint.source)),
        floors,
        float(between.kl.mean()),
    )
