"""Make a panel: texts by stratum, and text that the model generates itself.

The built-in panel is the held-out part of the built-in corpus, which shares no document with the
calibration part, and the model's answers to its requests.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from salient.core.content_digest import text_digest
from salient.core.conversations import Document
from salient.core.corpus import builtin, read_texts
from salient.core.errors import CalibrationError, SalientError
from salient.core.progress import Progress, silent
from salient.core.system import cache_folder
from salient.core.text_places import texts_label
from salient.core.version import __version__
from salient.models.self_text import sampled_text, short_requests
from salient.models.skeleton import Skeleton
from salient.models.token_packing import DocumentEncoder, check_meaning
from salient.models.tokens import check_vocabulary, load_tokenizer, token_ids
from salient.validate.model_pair import PairMember

from .token_panel import PanelHead, TokenPanel, read_panel, vocabulary_digest, write_panel

BUILTIN_PANEL = "builtin"
OWN_TEXT = "self"  # the stratum of text that the model generated
OWN_SHARE = 0.2  # of the positions
STRATA = {"maths": "mathematics", "text": ""}  # kind of a document -> stratum; '': its file's name
OPENING = 24  # tokens that a model without a chat template continues
Documents = Sequence[Sequence[int]]  # the tokens of each


@dataclass(frozen=True)
class PanelRequest:
    """What a panel is made of.

    texts: files or data sets; (): the built-in held-out text   positions: at most; None: all
    own_text: whether the model generates a stratum
    """

    texts: tuple[str, ...] = ()
    length: int = 512
    positions: int | None = None
    own_text: bool = True


def make_panel(
    member: PairMember, request: PanelRequest, progress: Progress = silent
) -> TokenPanel:
    """The panel for the tokenizer of the 16-bit model `member`.

    Raises CalibrationError where the texts are too short or mean nothing.
    """
    tokenizer = load_tokenizer(member.companions)
    strata = _text_strata(tokenizer, request.texts)
    available = sum(len(ids) for each in strata.values() for ids in each)
    notes: list[str] = []
    if request.own_text:
        wanted = max(
            round(OWN_SHARE * min(available, request.positions or available)),
            (request.positions or 0) - available,
        )
        try:
            strata[OWN_TEXT] = _own_documents(member, tokenizer, wanted, progress)
        except SalientError as error:
            notes.append(f"No text of the model itself: {error}"[:4000])
    strata = _within(strata, request.positions)
    name = " + ".join(map(texts_label, request.texts)) or BUILTIN_PANEL
    panel = _packed(strata, request.length, name)
    check_vocabulary(panel.ids, member.skeleton.vocabulary, name)
    check_meaning(panel.ids.flatten(), tokenizer, name)
    head = dataclasses.replace(
        panel.head,
        tokenizer=vocabulary_digest(tokenizer),
        texts=tuple(map(texts_label, request.texts)) or ("the built-in corpus (heldout)",),
        notes=tuple(notes),
    )
    return dataclasses.replace(panel, head=head)


def cached_panel(member: PairMember, request: PanelRequest, progress: Progress) -> TokenPanel:
    """`make_panel`, found in the cache where it was made before."""
    settings = f"{member.fingerprint}|{request}|{__version__}"
    path = cache_folder() / "panels" / f"{text_digest(settings)[:32]}.safetensors"
    if path.is_file():
        try:
            return read_panel(path)
        except CalibrationError:
            path.unlink()  # damaged: made again
    panel = make_panel(member, request, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_panel(panel, path)
    return panel


def _text_strata(tokenizer: Any, texts: Sequence[str]) -> dict[str, list[list[int]]]:
    """The tokens of each document, by stratum."""
    sources = [(name, read_texts(name)) for name in texts] or [("", builtin("heldout"))]
    strata: dict[str, list[list[int]]] = {}
    for name, documents in sources:
        encoder = DocumentEncoder(tokenizer, name or BUILTIN_PANEL, len(documents))
        for document in documents:
            if ids := encoder(document):
                stratum = STRATA.get(document.kind, document.kind) or texts_label(name)
                strata.setdefault(stratum[:64], []).append([*ids, *encoder.separator])
    return strata


def _own_documents(
    member: PairMember, tokenizer: Any, wanted: int, progress: Progress
) -> list[list[int]]:
    """At least `wanted` tokens that the model generates to held-out requests."""
    model = member.model
    skeleton = Skeleton(model.source, torch.float32, member.skeleton.device, model.adapter)
    skeleton.head.check_generates(member.name)

    def requests() -> list[list[int]]:
        chat = getattr(tokenizer, "chat_template", None)
        short = short_requests(tokenizer, "heldout") if chat else []
        return short or [_opening(document, tokenizer) for document in builtin("heldout")]

    key = f"panel|{member.fingerprint}"
    pieces = sampled_text(skeleton, tokenizer, key, wanted, progress, requests)
    return [ids for _, ids in pieces]


def _opening(document: Document, tokenizer: Any) -> list[int]:
    return token_ids(document, tokenizer)[:OPENING]


def _within(strata: Mapping[str, Documents], positions: int | None) -> dict[str, Documents]:
    """At most `positions` tokens: each stratum its equal share, or all that it has if that is less.

    Whole documents from the first on; the last one is cut.
    """
    if positions is None:
        return dict(strata)
    sizes = {name: sum(map(len, documents)) for name, documents in strata.items()}
    left, shares = positions, dict[str, int]()
    for number, name in enumerate(sorted(sizes, key=sizes.__getitem__)):
        shares[name] = min(sizes[name], left // (len(sizes) - number))
        left -= shares[name]
    cut: dict[str, Documents] = {}
    for name, documents in strata.items():
        rest, some = shares[name], list[Sequence[int]]()
        for ids in documents:
            if rest > 0:
                some.append(ids[:rest])
                rest -= len(ids)
        cut[name] = some
    return cut


def _packed(strata: Mapping[str, Documents], length: int, name: str) -> TokenPanel:
    """Windows of `length` tokens; what fills no window of a stratum is left out."""
    names: list[str] = []
    ids, documents = list[torch.Tensor](), list[torch.Tensor]()
    for stratum, texts in strata.items():
        stream = torch.tensor([token for text in texts for token in text], dtype=torch.int32)
        sizes = torch.tensor([len(text) for text in texts])
        owner = torch.repeat_interleave(torch.arange(len(texts)), sizes) + len(names)
        count = len(stream) // length * length
        ids.append(stream[:count].reshape(-1, length))
        documents.append(owner[:count].int().reshape(-1, length))
        names += [stratum] * len(texts)
    whole = torch.cat(ids) if ids else torch.empty(0, length)
    if not len(whole):
        raise CalibrationError(
            f"{name} has no window of {length} tokens of one kind of text. Give more text, more "
            "--positions, or a shorter --sequence-length."
        )
    head = PanelHead(name, "", tuple(names), salient=__version__)
    return TokenPanel(head, whole, torch.cat(documents))
