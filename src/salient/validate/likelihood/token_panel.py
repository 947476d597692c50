"""A panel: the tokens on which models are compared, in a file that anybody can measure again.

A safetensors file with `ids` and `documents`, both int32 [windows, length], and a JSON head in its
metadata. A window holds text of one stratum; a document may continue in the next window. Documents
are the units that are resampled: their tokens depend on each other.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from salient.core.content_digest import text_digest
from salient.core.errors import CalibrationError, RequestError
from salient.core.input_files import parse_json
from salient.core.intervals import Clusters, Mask
from salient.core.records import Bounds, FormatFault, Name, from_json, to_json
from salient.formats.writer import disk_full_errors, sync

HEAD = "salient-panel"
MOST_DOCUMENTS = 2**20
Stratum = Annotated[str, Bounds(1, 64)]


@dataclass(frozen=True)
class PanelHead:
    """What a panel is.

    name: of the panel   tokenizer: digest of the vocabulary that its ids are of
    strata: of each document   texts: where they are from   notes: what is missing in it
    """

    name: Name
    tokenizer: Name
    strata: Annotated[tuple[Stratum, ...], Bounds(1, MOST_DOCUMENTS)]
    texts: tuple[Name, ...] = ()
    notes: tuple[Name, ...] = ()
    salient: Name = ""


@dataclass(frozen=True)
class TokenPanel:
    """ids, documents: int32 [windows, length]; a document is an index of head.strata"""

    head: PanelHead
    ids: Tensor
    documents: Tensor
    path: Path | None = field(default=None, compare=False)

    @property
    def positions(self) -> int:
        """All positions, each of which is compared."""
        return self.ids.numel()

    @property
    def digest(self) -> str:
        """SHA-256 of tokens, documents, strata and tokenizer."""
        digest = hashlib.sha256(f"{list(self.ids.shape)}{self.head.tokenizer}".encode())
        digest.update(json.dumps(self.head.strata).encode())
        for tensor in (self.ids, self.documents):
            digest.update(tensor.contiguous().numpy().astype("<i4").tobytes())
        return digest.hexdigest()

    @property
    def following(self) -> Tensor:
        """The next token at each position, -1 at the end of a window: int64 [windows, length]."""
        ids = self.ids.long()
        return torch.cat([ids[:, 1:], ids.new_full((len(ids), 1), -1)], 1)

    @property
    def document_of(self) -> Clusters:
        """The document of each position: [positions]."""
        return self.documents.flatten().long().numpy()

    def stratum_of(self, stratum: str) -> Mask:
        """Whether each position is of `stratum`: bool [positions]."""
        return np.array([name == stratum for name in self.head.strata])[self.document_of]

    @property
    def strata(self) -> list[str]:
        """The names of the strata, in order."""
        return list(dict.fromkeys(self.head.strata))

    def windows(self, rows: slice) -> "TokenPanel":
        """Some of the windows."""
        return TokenPanel(self.head, self.ids[rows], self.documents[rows], self.path)


def vocabulary_digest(tokenizer: Any) -> str:
    """The digest of a tokenizer's tokens and their ids."""
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    return text_digest(json.dumps(sorted(vocabulary.items())))


def write_panel(panel: TokenPanel, path: Path) -> None:
    """Write `panel` to `path`, which appears only when it is complete."""
    partial = path.with_name(path.name + ".tmp")
    tensors = {"ids": panel.ids.contiguous(), "documents": panel.documents.contiguous()}
    with disk_full_errors(path.parent):
        try:
            save_file(tensors, partial, metadata={HEAD: json.dumps(to_json(panel.head))})
            sync(partial)
            partial.rename(path)
            path.chmod(0o644)
        finally:
            partial.unlink(missing_ok=True)


def read_panel(path: Path) -> TokenPanel:
    """The panel in the file `path`. Raises CalibrationError naming what is wrong with it."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEAD)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CalibrationError(
            f"{path} is no panel that can be read ({error}). Make one with salient panel make."
        ) from error
    if text is None or {"ids", "documents"} - set(tensors):
        raise CalibrationError(
            f"{path} is no panel: it has no {HEAD} head with ids and documents. Make one with "
            "salient panel make."
        )
    try:
        head = from_json(PanelHead, parse_json(text))
    except (FormatFault, ValueError) as fault:
        raise CalibrationError(
            f"{path}: the panel's head is damaged ({fault}). Fetch it again, or make one with "
            "salient panel make."
        ) from fault
    panel = TokenPanel(head, tensors["ids"], tensors["documents"], path)
    if fault := _fault(panel):
        raise CalibrationError(f"{path}: {fault}. Fetch the panel again, or make it again.")
    return panel


def _fault(panel: TokenPanel) -> str:
    """What is wrong with the tensors of a panel; '' for nothing."""
    ids, documents = panel.ids, panel.documents
    if ids.dtype != torch.int32 or documents.dtype != torch.int32:
        return f"ids are {ids.dtype} and documents {documents.dtype}, not int32"
    if ids.ndim != 2 or ids.shape != documents.shape or ids.shape[0] < 1 or ids.shape[1] < 2:
        return f"ids have the shape {list(ids.shape)} and documents {list(documents.shape)}"
    if int(ids.min()) < 0:
        return "a token id is negative"
    if int(documents.min()) < 0 or int(documents.max()) >= len(panel.head.strata):
        return f"documents are not all of the {len(panel.head.strata)} in its head"
    return ""


def check_panel(panel: TokenPanel, tokenizer: Any, longest: int | None, name: str) -> None:
    """Raise RequestError where `panel` is of another tokenizer, or its windows are too long."""
    if panel.head.tokenizer != vocabulary_digest(tokenizer):
        raise RequestError(
            f"The panel {panel.head.name} was made with another tokenizer than that of {name}. "
            f"Make one for it: salient panel make {name} -o FILE."
        )
    if longest and panel.ids.shape[1] > longest:
        raise RequestError(
            f"The panel {panel.head.name} has windows of {panel.ids.shape[1]} tokens, but {name} "
            f"has {longest} positions. Make one with a shorter --sequence-length."
        )
