"""The explorer's state: the served checkpoint, its evidence, and its 16-bit source."""

from functools import cached_property

import torch

from salient.core.dtypes import SIXTEEN_BITS, stored_sixteen_bits
from salient.core.errors import CheckpointError
from salient.core.evidence import RunEvidence, read_evidence
from salient.core.records import to_json
from salient.core.scheme import Scheme
from salient.core.system import resident_memory
from salient.explorer.panels.group import group_sizes
from salient.explorer.panels.linear_view import LinearViewer
from salient.runtime.inspect_runtime import runtime_details
from salient.runtime.load_engine import LoadedEngine
from salient.runtime.model_loader import weight_bytes
from salient.serve.embedded import ServedModel

from .background import BackgroundWorker
from .calibration_pass import CalibrationPass
from .linears import LinearReader, block_reader
from .reference_model import ReferenceSource, find_source
from .run_evidence import NO_EVIDENCE, blocks_data


class ExplorerState:
    """What the page shows of `served`, and of the 16-bit `reference` next to it.

    Everything is computed on first use, in the background thread.
    """

    def __init__(self, served: ServedModel, reference: ServedModel | None = None):
        self.served, self.reference = served, reference
        self.background = BackgroundWorker()

    @cached_property
    def evidence(self) -> RunEvidence | str:
        """The checkpoint's salient.json, or the reason why there is none."""
        try:
            return read_evidence(self.served.folder) or NO_EVIDENCE
        except CheckpointError as error:
            return f"The checkpoint's {error}"

    @cached_property
    def source(self) -> ReferenceSource | str:
        """The 16-bit model, or the reason why it is not available."""
        served = self.served
        if served.loaded.model.checkpoint.format is None:
            return ReferenceSource(served.folder, f"{served.name}, which is a 16-bit model itself")
        reference = (self.reference.name, self.reference.folder) if self.reference else None
        return find_source(served.folder, self.evidence, reference)

    @cached_property
    def calibration(self) -> CalibrationPass | None:
        """The statistics of the source; the first use starts to measure them."""
        if isinstance(self.source, str):
            return None
        calibration = CalibrationPass(self.source, self.evidence, self.background)
        calibration.start()
        return calibration

    @cached_property
    def viewer(self) -> LinearViewer:
        missing = self.source if isinstance(self.source, str) else ""
        reader = self.calibration.reader if self.calibration else None
        layers = LinearReader(block_reader(self.served.folder), reader)
        return LinearViewer(layers, self.calibration, self.evidence, missing)

    @property
    def scheme(self) -> Scheme:
        return self.served.loaded.model.checkpoint.scheme or Scheme()

    @property
    def dtype(self) -> torch.dtype:
        """The 16-bit dtype that scales are rounded to."""
        name = None if isinstance(self.evidence, str) else self.evidence.run.dtype
        config = self.served.loaded.model.checkpoint.config
        return SIXTEEN_BITS.get(name or "") or stored_sixteen_bits(config) or torch.float16

    def scheme_for(self, width: int) -> Scheme:
        """The checkpoint's scheme, with a group size that divides `width`."""
        scheme, sizes = self.scheme, group_sizes(width)
        if width % scheme.group_size == 0 or not sizes:
            return scheme
        return Scheme(sizes[-1], scheme.symmetric, scheme.bits)

    def overview(self) -> dict[str, object]:
        """Everything that does not depend on the chosen layer."""
        loaded, evidence, source = self.served.loaded, self.evidence, self.source
        measured = not isinstance(evidence, str)
        checkpoint = loaded.model.checkpoint
        return {
            "model": self.served.name,
            "scheme": str(checkpoint.schemes) if checkpoint.schemes else None,
            "bits": self.scheme.bits,
            "group_size": self.scheme.group_size,
            "bits_per_weight": checkpoint.bits_per_weight or 16,
            "made_from": evidence.model if measured else None,
            "made_by": f"Salient {evidence.run.salient}" if measured else None,
            "heldout": to_json(evidence.heldout) if measured else {},
            "bytes": to_json(evidence.bytes) if measured else {},
            "evidence": blocks_data(evidence) if measured else None,
            "no_evidence": "" if measured else evidence,
            "source": None if isinstance(source, str) else source.label,
            "source_remark": "" if isinstance(source, str) else source.remark,
            "no_source": source if isinstance(source, str) else "",
            "blocks": self.viewer.layers.blocks,
            "reference": self.reference.name if self.reference else None,
            "chat": bool(loaded.engine.tokenizer.chat_template),
            "context": loaded.engine.context,
            "progress": self.progress,
        }

    @property
    def progress(self) -> dict[str, object]:
        calibration = self.__dict__.get("calibration")
        none = {"state": "none", "done": 0, "total": 0, "words": ""}
        return calibration.progress if calibration else none

    def running(self) -> dict[str, object]:
        """Kernels, fusion, memory by part."""
        loaded, reference = self.served.loaded, self.reference and self.reference.loaded
        details = runtime_details(loaded)
        data = to_json(details)
        del data["checkpoint"]  # a path of this machine
        sizes = {"weights": weight_bytes(loaded.model.module), "keys and values": _kv_bytes(loaded)}
        if reference is not None:
            sizes["the reference's weights"] = weight_bytes(reference.model.module)
            sizes["the reference's keys and values"] = _kv_bytes(reference)
        sizes["this page's measurements"] = self.calibration.bytes if self.calibration else 0
        device = loaded.model.device
        cuda = device.type == "cuda"
        total = torch.cuda.memory_allocated(device) if cuda else resident_memory()
        sizes["the rest: activations, Python, libraries"] = max(total - sum(sizes.values()), 0)
        full = details.kv_bytes_a_token
        return {
            **data,
            "parts": [{"name": name, "bytes": size} for name, size in sizes.items()],
            "total": total,
            "kv_bytes_full": full and full * details.context * details.slots,
        }


def _kv_bytes(loaded: LoadedEngine) -> int:
    each = runtime_details(loaded).kv_bytes_a_token or 0
    return each * loaded.engine.cached_tokens
