"""Documents -> token samples, with counts of used and dropped tokens.

`pack_tokens` joins documents in their order; `pack_kinds` mixes kinds of documents in fixed shares;
`merge_batches` joins batches of several texts. Between documents stands the end-of-text token.
Short documents share a sample, long ones are cut.
"""

import hashlib
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from salient.core.corpus import Document
from salient.core.errors import CalibrationError

from .chat_template import message_fields, without_media
from .tokens import LISTED, token_ids

OPTIONS = ("--samples", "--sequence-length")  # of `quantize`, for messages
MOST_TOKENS = 2**24  # of a whole text
FEWEST_TOKENS = 64  # shorter samples say nothing about attention
FEWEST_DISTINCT = 8  # different tokens of a text that means something
LONGEST_REPEAT = 64  # characters that may be one or two, repeated: a ruled line
CHECKED = 2**16  # characters of a document whose kind is checked
CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufffd]")
MOST_CONTROLS = 0.05  # share of a text's characters; more are bytes and no text
# Rendering of all conversations: seconds, and more for each
RENDER_SECONDS, RENDER_EACH = 60.0, 0.05

HELDOUT_SHARE = 16  # one sample in sixteen, at least one, is held out to judge with
MOST_HELDOUT = 4  # samples: more would cost time and change no verdict
DOCUMENTS = 4  # of each kind at least, where samples are few


@dataclass(frozen=True)
class TokenBatch:
    """Tokens and where they came from.

    ids: int64 [samples, tokens]
    notes: what was left out of the texts
    heldout: samples at the end that share no document with the others
    """

    ids: Tensor
    documents: int
    dropped_tokens: int
    kinds: dict[str, int] = field(default_factory=dict[str, int])
    notes: tuple[str, ...] = ()
    heldout: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 of shape and ids."""
        shape = f"{self.ids.shape[0]}x{self.ids.shape[1]}:".encode()
        return hashlib.sha256(shape + self.ids.numpy().tobytes()).hexdigest()

    def split(self) -> tuple[Tensor, Tensor]:
        """(calibration, held-out): int64 [samples, tokens]. Without held-out samples, all twice."""
        count = len(self.ids) - self.heldout
        return self.ids[:count], self.ids[count:] if self.heldout else self.ids


Piece = tuple[str, list[int]]  # the kind of a text, and its tokens


def pack_tokens(
    documents: list[Document],
    tokenizer: Any,
    samples: int | None,
    length: int,
    where: str,
    options: tuple[str, str] = OPTIONS,
    *,
    hold_out: bool = False,
    fewer: bool = False,
) -> TokenBatch:
    """Pack `documents` into `samples` samples of `length` tokens; None: as many as they fill.

    where, options: names of the texts and of the two numbers, for messages
    hold_out: the last samples are of the last documents, apart from the others if they suffice
    fewer: too little text gives fewer samples

    Raises CalibrationError if there is too little text, or some that means nothing.
    """
    check_samples(samples, length, options)
    encoder = DocumentEncoder(tokenizer, where, len(documents))
    pieces = [(d.kind, [*ids, *encoder.separator]) for d in documents if (ids := encoder(d))]
    notes, total = encoder.notes(), encoder.tokens
    if samples is None:
        samples = max(1, min(total, MOST_TOKENS) // length)
    elif fewer:
        samples = max(1, min(samples, total // length))
    check_count(total, samples, length, where, options)
    batch = pack_pieces(pieces, tokenizer, samples, length, where, hold_out=hold_out)
    return replace(batch, notes=notes)


def pack_pieces(
    pieces: list[Piece],
    tokenizer: Any,
    samples: int,
    length: int,
    where: str,
    *,
    hold_out: bool,
) -> TokenBatch:
    """`pack_tokens` for documents that are tokens already, and enough of them."""
    heldout = heldout_samples(samples) if hold_out else 0
    count = (samples - heldout) * length
    parts = [_cut(pieces, 0, count)]
    if heldout:
        parts.append(_cut(pieces, _last_start(pieces, count, heldout * length), heldout * length))
    ids = torch.tensor([token for part in parts for _, tokens in part for token in tokens])
    check_meaning(ids, tokenizer, where)
    return TokenBatch(
        ids.reshape(samples, length),
        sum(map(len, parts)),
        sum(len(tokens) for _, tokens in pieces) - samples * length,
        count_kinds(piece for part in parts for piece in part),
        heldout=heldout,
    )


def _cut(pieces: list[Piece], start: int, count: int) -> list[Piece]:
    """`count` tokens of the joined `pieces` from `start` on."""
    part, position = list[Piece](), 0
    for kind, ids in pieces:
        tokens = ids[max(0, start - position) : max(0, start + count - position)]
        position += len(ids)
        if tokens:
            part.append((kind, tokens))
    return part


def _last_start(pieces: list[Piece], first: int, count: int) -> int:
    """Where the last documents with `count` tokens begin: after `first` tokens of the pieces."""
    start = sum(len(ids) for _, ids in pieces)
    end = start - count
    for _, ids in reversed(pieces):
        if start <= end:
            break
        start -= len(ids)
    return max(first, start)


def count_kinds(pieces: Iterable[Piece]) -> dict[str, int]:
    """Kind -> tokens."""
    kinds = dict[str, int]()
    for kind, ids in pieces:
        kinds[kind] = kinds.get(kind, 0) + len(ids)
    return kinds


def check_samples(samples: int | None, length: int, options: tuple[str, str]) -> None:
    """Raise CalibrationError for samples too short, or none."""
    if length < FEWEST_TOKENS or (samples is not None and samples < 1):
        raise CalibrationError(
            f"{options[0]} {samples} of {options[1]} {length}: use at least 1 of {FEWEST_TOKENS} "
            "tokens."
        )


def check_count(
    tokens: int, samples: int, length: int, where: str, options: tuple[str, str]
) -> None:
    """Raise CalibrationError if `tokens` do not fill `samples` samples of `length` tokens."""
    if tokens < samples * length:
        raise CalibrationError(
            f"{where} has {tokens} tokens, but {samples} samples of {length} need "
            f"{samples * length}. {_advice(tokens, samples, length, options)} more text."
        )


def check_meaning(ids: Tensor, tokenizer: Any, where: str) -> None:
    """Raise CalibrationError if the tokens `ids` [tokens] say nothing about a model."""
    if reason := _meaningless(ids, set(tokenizer.all_special_ids)):
        raise CalibrationError(
            f"{where} {reason}: it repeats itself and says nothing about the model. Use text like "
            "your model's use."
        )


def _meaningless(ids: Tensor, special: set[int]) -> str:
    """Why the tokens `ids` [tokens] say nothing about a model; '' if they do."""
    tokens, counts = ids.unique(return_counts=True)
    distinct = len(set(tokens.tolist()) - special)
    if distinct < FEWEST_DISTINCT:
        return f"has only {distinct} different tokens in {len(ids)}"
    if 2 * int(counts.max()) > len(ids):
        return f"is one token in {int(counts.max())} of {len(ids)} places"
    return ""


def _advice(tokens: int, samples: int, length: int, options: tuple[str, str]) -> str:
    """Advice for a text of only `tokens` tokens."""
    fits, longest = tokens // length, tokens // samples
    if fits:
        return f"Use {options[0]} {fits}, or"
    if longest >= FEWEST_TOKENS:
        return f"Use a shorter {options[1]} (up to {longest}), or"
    if tokens >= FEWEST_TOKENS:
        return f"Use {options[0]} 1 and a {options[1]} of up to {tokens}, or"
    return "Use"


class DocumentEncoder:
    """Tokenizes documents, and counts those that hold nothing to use.

    where: names the texts   count: of all documents   separator: what ends a document
    tokens: of the documents so far, with their separators
    """

    def __init__(self, tokenizer: Any, where: str, count: int):
        self._tokenizer, self._where, self._count = tokenizer, where, count
        self._special = set[int](tokenizer.all_special_ids)
        self._read, self._empty, self._started = 0, list[str](), time.monotonic()
        self.tokens = self._media = self._media_rows = 0
        end: int | None = tokenizer.eos_token_id
        self.separator = [] if end is None else [end]

    def __call__(self, document: Document) -> list[int]:
        """The tokens of `document`; none if it has no token of its own.

        Raises CalibrationError if the model's chat template takes too long.
        """
        self._read += 1
        label = document.where.rpartition(", ")[2] or f"document {self._read}"
        document, parts = without_media(document)
        self._media += parts
        self._media_rows += bool(parts)
        ids = token_ids(document, self._tokenizer) if _has_meaning(document) else []
        spent = time.monotonic() - self._started
        if document.messages and spent > RENDER_SECONDS + RENDER_EACH * self._count:
            raise CalibrationError(
                f"{self._where}: the model's chat template took {spent:.0f} seconds for "
                f"{self._read} of {self._count} conversations. Fix the template, or "
                "give fewer rows."
            )
        if not set(ids) <= self._special:
            self.tokens += len(ids) + len(self.separator)
            return ids
        self._empty.append(label)
        return []

    def notes(self) -> tuple[str, ...]:
        """What was left out of the documents so far.

        Raises CalibrationError if most of them have no token.
        """
        notes, count = list[str](), len(self._empty)
        if count:
            more = f" and {count - LISTED} more" if count > LISTED else ""
            reason = (
                f"{count} of {self._read} documents have no token of their own: they are empty, "
                "one letter repeated, control characters, or only special tokens "
                f"({', '.join(self._empty[:LISTED])}{more})"
            )
            if 2 * count > self._read:
                raise CalibrationError(f"{self._where}: {reason}. Use text like your model's use.")
            notes.append(f"{self._where}: {reason}. They were left out.")
        if self._media:
            notes.append(
                f"{self._where}: {self._media} parts that are not text, such as images, in "
                f"{self._media_rows} conversations were left out; the text part is calibrated with "
                "text."
            )
        return tuple(notes)


def _has_meaning(document: Document) -> bool:
    """Whether a document has visible text, not bytes, nor one or two characters repeated."""
    text = document.text
    if document.messages:
        text = " ".join(value for _, fields in message_fields(document) for _, value in fields)
    if len(CONTROLS.findall(text, 0, CHECKED)) > MOST_CONTROLS * min(len(text), CHECKED):
        return False
    start = "".join(text[: 16 * LONGEST_REPEAT].split())
    if len(start) >= LONGEST_REPEAT and len(set(start)) <= 2:
        return len(set(text)) > FEWEST_DISTINCT
    return any(letter.isprintable() and not letter.isspace() for letter in text)


def heldout_samples(samples: int) -> int:
    """How many of `samples` calibration samples are held out."""
    return 0 if samples == 1 else min(max(1, samples // HELDOUT_SHARE), MOST_HELDOUT)


class _Stratum:
    """The documents of one kind, tokenized when their turn comes."""

    def __init__(self, documents: Iterable[Document], encode: Callable[[Document], list[int]]):
        self._unused, self._rests, self._encode = deque(documents), deque[list[int]](), encode

    def draw(self, most: int, *, last: bool) -> list[int]:
        """At most `most` tokens: of the next unused document, or else of the rest of a used one.

        last: of the last unused document; its rest is not used. None are left where it is empty.
        """
        ids = list[int]()
        while self._unused and not ids:
            ids = self._encode(self._unused.pop() if last else self._unused.popleft())
        if not ids and not last and self._rests:
            ids = self._rests.popleft()
        if ids[most:] and not last:
            self._rests.append(ids[most:])
        return ids[:most]


def pack_kinds(
    documents: Iterable[Document],
    tokenizer: Any,
    samples: int,
    length: int,
    where: str,
    *,
    shares: Mapping[str, float],
) -> TokenBatch:
    """Pack `documents` of several kinds into samples in which each kind has its share.

    The next piece is of the kind that is furthest below its share: any number of tokens has the
    same mixture. A document gives at most a sample, and less where a kind would be of fewer than
    `DOCUMENTS`; its rest follows when all others are used. The held-out samples have the same
    mixture, of the last documents.

    Raises CalibrationError if there is too little text.
    """
    check_samples(samples, length, OPTIONS)
    by_kind = {kind: list[Document]() for kind in shares}
    for document in documents:
        by_kind[document.kind].append(document)
    encoder = DocumentEncoder(tokenizer, where, sum(map(len, by_kind.values())))
    strata = {kind: _Stratum(each, encoder) for kind, each in by_kind.items()}

    def draw(wanted: int, *, last: bool) -> list[Piece]:
        pieces, taken, count = list[Piece](), dict.fromkeys(strata, 0), 0
        while taken and count < wanted:
            kind = min(taken, key=lambda kind: taken[kind] / shares[kind])
            most = max(FEWEST_TOKENS, min(length, round(shares[kind] * wanted / DOCUMENTS)))
            if ids := strata[kind].draw(most, last=last):
                ids = [*ids, *encoder.separator][: wanted - count]
                taken[kind] += len(ids)
                count += len(ids)
                pieces.append((kind, ids))
            else:
                del taken[kind]
        return pieces

    heldout = heldout_samples(samples)
    judged = draw(heldout * length, last=True)
    pieces = [*draw((samples - heldout) * length, last=False), *judged]
    stream = [token for _, ids in pieces for token in ids]
    check_count(len(stream), samples, length, where, OPTIONS)
    return TokenBatch(
        torch.tensor(stream).reshape(samples, length),
        len(pieces),
        encoder.tokens - len(stream),
        count_kinds(pieces),
        encoder.notes(),
        heldout,
    )


def merge_batches(batches: Sequence[TokenBatch]) -> TokenBatch:
    """One batch of several with samples of one length: evenly interleaved, held-out ones last."""
    counts = [len(batch.ids) - batch.heldout for batch in batches]
    order = sorted(
        ((row + 0.5) / count, number, row)
        for number, count in enumerate(counts)
        for row in range(count)
    )
    rows = [batches[number].ids[row] for _, number, row in order]
    rows += [ids for batch, count in zip(batches, counts, strict=True) for ids in batch.ids[count:]]
    return TokenBatch(
        torch.stack(rows),
        sum(batch.documents for batch in batches),
        sum(batch.dropped_tokens for batch in batches),
        dict(sum((Counter(batch.kinds) for batch in batches), Counter[str]())),
        tuple(note for batch in batches for note in batch.notes),
        sum(batch.heldout for batch in batches),
    )
