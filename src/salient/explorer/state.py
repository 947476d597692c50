"""What there is to look at: the checkpoint that is served, its evidence, and its 16-bit source."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from salient.core.dtypes import SIXTEEN_BITS, stored_sixteen_bits
from salient.core.evidence import RunEvidence
from salient.core.records import to_json
from salient.core.scheme import Scheme
from salient.explorer.panels.group import sizes_of
from salient.explorer.panels.kernels import running_data
from salient.explorer.panels.linear_view import LinearViewer
from salient.runtime.load_engine import LoadedEngine
from salient.serve.worker import Worker

from .background import BackgroundWorker
from .calibration_pass import CalibrationPass
from .linears import open_layers
from .reference_model import ReferenceSource, find_source
from .run_evidence import blocks_data, evidence_or_reason

DEFAULT = Scheme()  # of a 16-bit model, which has none


@dataclass(frozen=True)
class ReferenceModel:
    """The 16-bit model that runs beside the checkpoint."""

    name: str
    folder: Path
    opened: LoadedEngine
    worker: Worker


class ExplorerState:
    """The checkpoint in `folder`, `opened` and served as `model` by `worker`.

    Making one costs nothing; what is found out later is found out at the desk.
    """

    def __init__(
        self,
        folder: Path,
        opened: LoadedEngine,
        model: str,
        worker: Worker,
        reference: ReferenceModel | None = None,
    ):
        self.folder, self.opened, self.model, self.worker = folder, opened, model, worker
        self.reference = reference
        self.desk = BackgroundWorker()

    @cached_property
    def evidence(self) -> RunEvidence | str:
        """The checkpoint's salient.json; in words why there is none."""
        return evidence_or_reason(self.folder)

    @cached_property
    def source(self) -> ReferenceSource | str:
        """The 16-bit model; in words why it cannot be had."""
        if self.opened.model.checkpoint.format is None:
            return ReferenceSource(self.folder, f"{self.model}, which is a 16-bit model itself")
        given = (self.reference.name, self.reference.folder) if self.reference else None
        return find_source(self.folder, self.evidence, given)

    @cached_property
    def atlas(self) -> CalibrationPass | None:
        """The statistics of the source, begun to be measured when this is first asked for."""
        if isinstance(self.source, str):
            return None
        made = CalibrationPass(self.source, self.evidence, self.desk)
        made.begin()
        return made

    @cached_property
    def viewer(self) -> LinearViewer:
        """Looks at single linears."""
        missing = self.source if isinstance(self.source, str) else ""
        reader = self.atlas.reader if self.atlas else None
        return LinearViewer(open_layers(self.folder, reader), self.atlas, self.evidence, missing)

    @property
    def scheme(self) -> Scheme:
        return self.opened.model.checkpoint.scheme or DEFAULT

    @property
    def dtype(self) -> torch.dtype:
        """The 16-bit type that scales are rounded to."""
        named = None if isinstance(self.evidence, str) else self.evidence.run.dtype
        config = self.opened.model.checkpoint.config
        return SIXTEEN_BITS.get(named or "") or stored_sixteen_bits(config) or torch.float16

    def scheme_for(self, width: int) -> Scheme:
        """The checkpoint's scheme, in a group size that divides `width`."""
        scheme, sizes = self.scheme, sizes_of(width)
        if width % scheme.group_size == 0 or not sizes:
            return scheme
        return Scheme(sizes[-1], scheme.symmetric, scheme.bits)

    def overview(self) -> dict[str, Any]:
        """All that does not depend on what is chosen, as plain data. At the desk."""
        evidence, source = self.evidence, self.source
        written = not isinstance(evidence, str)
        scheme = self.opened.model.checkpoint.scheme
        return {
            "model": self.model,
            "scheme": str(scheme) if scheme else None,
            "bits": self.scheme.bits,
            "group_size": self.scheme.group_size,
            "bits_per_weight": scheme.bits_per_weight if scheme else 16,
            "made_from": evidence.model if written else None,
            "made_by": f"Salient {evidence.run.salient}" if written else None,
            "heldout": to_json(evidence.heldout) if written else {},
            "bytes": to_json(evidence.bytes) if written else {},
            "evidence": blocks_data(evidence) if written else None,
            "no_evidence": "" if written else evidence,
            "source": None if isinstance(source, str) else source.words,
            "source_remark": "" if isinstance(source, str) else source.remark,
            "no_source": source if isinstance(source, str) else "",
            "blocks": self.viewer.layers.blocks,
            "reference": self.reference.name if self.reference else None,
            "chat": bool(self.opened.engine.tokenizer.chat_template),
            "context": self.opened.engine.context,
            "progress": self.progress,
        }

    @property
    def progress(self) -> dict[str, Any]:
        """How far the pass is; begins none."""
        atlas = self.__dict__.get("atlas")
        return atlas.progress if atlas else {"state": "none", "done": 0, "total": 0, "words": ""}

    def running(self) -> dict[str, Any]:
        """Kernels, fusion, memory, as plain data."""
        reference = self.reference.opened if self.reference else None
        return running_data(self.opened, reference, self.atlas.bytes if self.atlas else 0)
