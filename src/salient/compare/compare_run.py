"""The verb `compare`: make each contestant, stream it over the panel, and rank by KL over bits."""

import json
import logging
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from salient.awq.layer_selection import LayerSelection, choose_layers
from salient.awq.options import QuantizeOptions
from salient.awq.quantize import quantize_model
from salient.core.content_digest import text_digest
from salient.core.corpus import builtin
from salient.core.devices import find_device
from salient.core.errors import RequestError, SalientError
from salient.core.options import strings
from salient.core.progress import Progress
from salient.core.records import to_json
from salient.core.report import Report
from salient.core.system import cache_folder
from salient.formats.writer import write_json, write_text
from salient.models.source_model import SourceModel, open_source_model
from salient.models.token_packing import pack_tokens
from salient.models.tokens import load_tokenizer
from salient.validate.cache import ValidationCache
from salient.validate.likelihood.panel_making import PanelRequest, cached_panel
from salient.validate.likelihood.panel_stream import StateStore, measure_model
from salient.validate.likelihood.stratum_figures import StratumFigures, stratum_figures
from salient.validate.likelihood.token_panel import TokenPanel, check_panel, read_panel
from salient.validate.model_pair import PairMember, open_pair
from salient.validate.report.write import check_folder

from .compare_report import comparison_report, page
from .contestant_results import Comparison, ContestantResult
from .contestants import DONE, RoundedSkeleton, find_method, make_gptq, make_rounded
from .options import CompareOptions

_log = logging.getLogger("salient")
CALIBRATION_TOKENS = 512  # of a sample


@dataclass
class CompareRun:
    """What all contestants share."""

    options: CompareOptions
    member: PairMember
    layers: LayerSelection
    panel: TokenPanel
    store: StateStore
    cache: ValidationCache

    @property
    def model(self) -> SourceModel:
        return self.member.model

    def folder(self, name: str) -> Path:
        """Where a contestant is made."""
        options = self.options
        key = f"{self.member.fingerprint} {self.layers.scheme} {options.samples} {options.effort}"
        return cache_folder() / "contestants" / f"{name}-{text_digest(key)[:24]}"

    def measure(self, name: str, progress: Progress) -> ContestantResult:
        """Make and measure one contestant. Raises SalientError where it cannot be made."""
        if name == "awq":
            return self._checkpoint(name, self._awq(progress.part(0, 1, 2)), progress)
        if Path(name).expanduser().exists():
            return self._checkpoint(name, (str(Path(name).expanduser()), None), progress)
        return self._rounded(name, progress)

    def _awq(self, progress: Progress) -> tuple[str, float]:
        folder, started, options = self.folder("awq"), time.monotonic(), self.options
        folder.parent.mkdir(parents=True, exist_ok=True)
        record = folder.with_name(f"{folder.name}.json")
        quantize_model(
            QuantizeOptions(
                options.model,
                folder,
                scheme=str(self.layers.scheme),
                effort=options.effort,
                samples=options.samples,
                sequence_length=CALIBRATION_TOKENS,
                device=options.device,
                fresh=options.fresh,
                progress=progress,
            )
        )
        if not record.is_file() or options.fresh:
            write_json(record, {"seconds": round(time.monotonic() - started, 1)})
        return str(folder), json.loads(record.read_text())["seconds"]

    def _checkpoint(
        self, name: str, record: tuple[str, float | None], progress: Progress
    ) -> ContestantResult:
        path, seconds = record
        pair = open_pair(path, str(self.options.model), self.options.device)
        summary = pair.checkpoint.summary
        settings: dict[str, object] = {"checkpoint": pair.checkpoint.fingerprint}
        store = StateStore(name, pair.checkpoint.skeleton, self.panel)
        label = f"{summary.format or '16-bit'} {summary.scheme or ''}".strip()
        label = f"awq --effort {self.options.effort} {summary.scheme}" if name == "awq" else label
        return ContestantResult(
            name,
            label,
            summary.bits_per_weight or 16.0,
            pair.checkpoint.source.bytes_on_disk,
            seconds,
            self._figures(store, settings, progress.part(1, 1, 2)),
        )

    def _rounded(self, name: str, progress: Progress) -> ContestantResult:
        folder, scheme = self.folder(name), self.layers.scheme
        if self.options.fresh:
            shutil.rmtree(folder, ignore_errors=True)
        skeleton, making = self.member.skeleton, progress.part(0, 1, 2)
        if name == "gptq":
            label, bits = f"gptq {scheme}: ours, error feedback without scales", None
            bits = scheme.bits_per_weight
        else:
            method = find_method(name, scheme)
            label, bits = method.label, method.bits
        if not (folder / DONE).is_file():
            if name == "gptq":
                make_gptq(skeleton, self.layers, self._calibration(), folder, making)
            else:
                make_rounded(skeleton, self.layers, method, folder, making)
        seconds = json.loads((folder / DONE).read_text())["seconds"]
        own = RoundedSkeleton(self.model.source, skeleton.device, folder)
        settings: dict[str, object] = {"folder": folder.name}
        figures = self._figures(StateStore(name, own, self.panel), settings, progress.part(1, 1, 2))
        weights = sum(
            linear.weight.numel()
            for index, block in enumerate(skeleton.blocks)
            for local, linear in skeleton.linears(index).items()
            if f"{block}.{local}" in self.layers.quantized
        )
        rest = self.model.source.bytes_on_disk - 2 * weights
        size = round(weights * bits / 8) + max(rest, 0)
        return ContestantResult(name, label, bits, size, seconds, figures)

    def _calibration(self) -> Tensor:
        tokenizer, options = load_tokenizer(self.member.companions), self.options
        return pack_tokens(
            builtin("calibration"), tokenizer, options.samples, CALIBRATION_TOKENS, "builtin"
        ).ids

    def _figures(
        self, store: StateStore, settings: dict[str, object], progress: Progress
    ) -> StratumFigures:
        def measure() -> StratumFigures:
            (positions,), _ = measure_model([self.store], store, progress)
            return stratum_figures(positions, self.panel.document_of)

        settings |= {"reference": self.member.fingerprint, "panel": self.panel.digest}
        return self.cache.part("compare", settings, measure, StratumFigures)


def compare_contestants(options: CompareOptions) -> tuple[Comparison, Report]:
    """Measure all contestants. One that cannot be made is named with the reason.

    Raises SalientError for the model, the panel, or where no contestant could be measured.
    """
    names = list(dict.fromkeys(strings(options.contestants)))
    if options.report is not None:
        check_folder(Path(options.report))
    run = _open(options)
    results: list[ContestantResult] = []
    for number, name in enumerate(names):
        try:
            results.append(run.measure(name, options.progress.part(number, 1, len(names), name)))
        except SalientError as error:
            _log.warning("warning: %s: %s", name, error)
            results.append(ContestantResult(name, name, reason=str(error)))
    if not any(result.figures for result in results):
        raise RequestError(f"No contestant could be measured. {names[0]}: {results[0].reason}")
    points = [(r.bits_per_weight, r.figures.kl.value) for r in results if r.figures]
    marked = tuple(
        replace(result, front=is_front((result.bits_per_weight, result.figures.kl.value), points))
        if result.figures
        else result
        for result in results
    )
    comparison = Comparison(str(options.model), run.panel.head.name, run.panel.positions, marked)
    report = comparison_report(comparison)
    if options.report is not None:
        folder = Path(options.report)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "compare.html", page(comparison))
        write_json(folder / "compare.json", to_json(comparison))
        report.lines.append(f"Written to {folder}: compare.html, compare.json.")
    return comparison, report


def is_front(point: tuple[float | None, float], points: list[tuple[float | None, float]]) -> bool:
    """Whether no other point (bits, KL) is as small in both and smaller in one."""
    bits, kl = point[0] or 0.0, point[1]
    return not any(
        (b or 0.0) <= bits and k <= kl and ((b or 0.0) < bits or k < kl) for b, k in points
    )


def _open(options: CompareOptions) -> CompareRun:
    model = open_source_model(options.model, device=find_device(options.device))
    if model.source.format is not None:
        raise RequestError(f"{options.model} is quantized itself. Give the 16-bit model.")
    member = PairMember(str(options.model), "reference", model)
    model.skeleton.head.check_generates(member.name)
    if options.panel is not None:
        panel = read_panel(Path(options.panel))
    else:
        request = PanelRequest(
            strings(options.text), options.sequence_length, options.positions, own_text=False
        )
        panel = cached_panel(member, request, options.progress)
    tokenizer = load_tokenizer(member.companions)
    check_panel(panel, tokenizer, model.skeleton.longest_context, member.name)
    layers = choose_layers(model.skeleton, options.scheme, "awq", ())
    store = StateStore.open(
        "reference", model.skeleton, member.fingerprint, panel, reuse=not options.fresh
    )
    cache = ValidationCache(resume=not options.fresh)
    return CompareRun(options, member, layers, panel, store, cache)
