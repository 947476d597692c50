"""A model folder's tensors against the model that its config.json describes, before a run.

Every parameter needs a stored tensor of its shape and of a float type; every stored tensor needs a
place in the model. Tensors without one are leftovers: tables that every reader computes are
harmless, layers that predict further tokens are known extras, and all others are a loss, which is
refused unless `--drop` names them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from salient.core.errors import ModelError
from salient.core.model_files import StoredTensor
from salient.core.quant import check_finite
from salient.formats.checkpoint import Checkpoint
from salient.shapes.foreign_tensors import FLOATS, layout_of, matches_pattern

from .mtp import mtp_modules, mtp_tensors, promised_layers
from .skeleton import Skeleton
from .ties import equal

# Computed by every reader: rotary tables, causal masks, positions.
HARMLESS = re.compile(
    r"(^|\.)(rotary_emb|rotary_pos_emb)\.|(^|[._])inv_freq$|\.(masked_bias|causal_mask|bias_mask)$"
    r"|\.(cos|sin)_cached$|(^|\.)position_ids$|\.embed_positions\.weights$"
    r"|\.relative_position_index$|\.num_batches_tracked$"
)
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
MTP = "mtp"  # the pattern of `--drop` that names the layers which predict further tokens
LISTED = 3  # of many tensors, how many a message names
COMPARED = 32  # missing tensors whose names are looked for in the leftovers' names
PATTERNS = 4  # of many patterns, how many a message offers
READ_AT_ONCE = 2**31  # bytes of a folder whose values are checked before a run


@dataclass(frozen=True)
class Leftovers:
    """Stored tensors that the model has no place for.

    harmless: computed by every reader, or equal copies; the checkpoint omits them
    mtp: of layers that predict further tokens (models/mtp.py); written in 16 bits
    mtp_modules: these layers, as engines call them
    dropped: pattern of `--drop` -> the names that it drops
    """

    harmless: tuple[str, ...] = ()
    mtp: tuple[str, ...] = ()
    mtp_modules: tuple[str, ...] = ()
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @property
    def names(self) -> tuple[str, ...]:
        """Those that the checkpoint omits."""
        lost = (name for names in self.dropped.values() for name in names)
        return tuple(dict.fromkeys((*lost, *self.harmless)))


def check_files(skeleton: Skeleton, drop: tuple[str, ...] = ()) -> Leftovers:
    """Compare the files of `skeleton.source` with its model, from headers alone.

    Raises ModelError naming the tensors that are missing, of another shape or type, or that the
    model has no place for.
    """
    checker = _FileChecker(skeleton)
    checker.check_missing()
    checker.check_forms()
    return checker.sorted_leftovers(drop)


def check_values(source: Checkpoint, names: Iterable[str]) -> bool:
    """Read the tensors `names` of a folder of less than READ_AT_ONCE bytes; False for a larger one.

    Raises ModelError naming a tensor with NaN or infinite values.
    """
    if source.bytes_on_disk >= READ_AT_ONCE:
        return False
    with source.reading():
        for name in (name for name in names if name in source.files):
            check_finite(name, source.tensor(name))
    return True


class _FileChecker:
    """The comparison for one model.

    expected: every parameter and stored buffer of the model, without values
    """

    def __init__(self, skeleton: Skeleton):
        self.skeleton, self.source, self.files = skeleton, skeleton.source, skeleton.files
        self.kind = type(skeleton.model).__name__
        self.expected: dict[str, Tensor] = dict(skeleton.model.state_dict())
        for index, block in enumerate(skeleton.blocks):
            state = skeleton.bare(index).state_dict()
            self.expected |= {f"{block}.{name}": tensor for name, tensor in state.items()}
        self.leftovers = skeleton.unknown_names()
        self.home = skeleton.blocks[0].rpartition(".")[0]
        self._in_home = re.compile(rf"{re.escape(self.home)}\.(\d+)\.")

    def check_missing(self) -> None:
        """Refuse parameters that no file has."""
        tied: dict[str, str] = self.skeleton.model.all_tied_weights_keys
        missing = [
            name
            for name in self.expected
            if name not in self.files and tied.get(name, "") not in self.files
        ]
        if missing:
            self.files.check_combined(missing[0])
            raise ModelError(
                f"{self.source.folder} has no tensor {_listed(missing)} of the {self.kind} that "
                f"its config.json describes. {self._why_missing(missing)}"
            )

    def _why_missing(self, missing: list[str]) -> str:
        table, head = self.skeleton.embedding_name, self.skeleton.head_name
        if missing == [head]:
            return (
                f"If the head is the embedding {table!r}, set tie_word_embeddings to true in "
                "config.json; else add the file that has the head."
            )
        if missing == [table] and head in self.files:
            own = self.files.stored(head).name
            return f"It has {own!r}: if the model is tied, store that tensor as {table!r}."
        missing_blocks = [b for b in self.skeleton.blocks if not self._is_stored(b)]
        if missing_blocks:
            there = len(self.skeleton.blocks) - len(missing_blocks)
            hint = f"The files have {there} of the {len(self.skeleton.blocks)} blocks. "
        else:
            hint = ""
        pairs = ((name, lost) for lost in missing[:COMPARED] for name in self.leftovers)
        for name, lost in pairs:
            prefix = name.removesuffix(lost)
            if prefix not in ("", name):
                return (
                    f"It has {name!r} instead: if its names only have {prefix!r} more, write the "
                    "folder again without that."
                )
        ends = {_last_parts(name) for name in missing}
        near = [n for n in self.leftovers if _last_parts(n) in ends] or self.leftovers
        hint += f"It has {_listed(near)} instead. " if near else ""
        return (
            f"{hint}Correct config.json so that it describes these files, or add the file that "
            "has the missing tensors."
        )

    def _is_stored(self, block: str) -> bool:
        return any(n in self.files for n in self.expected if n.startswith(f"{block}."))

    def check_forms(self) -> None:
        """Refuse tensors of another shape than the parameter's, or of no float type."""
        architecture = self.skeleton.architecture
        for name, target in self.expected.items():
            stored = self.files.stored(name)
            header = self.source.headers.get(stored.name)
            if name not in self.files or header is None or stored.name in self.source.parts:
                continue  # quantized: its stored shape is not its own
            if stored.part is not None:
                target = architecture.wanted[architecture.places[name].name]
            shape = header.shape if stored.part is not None else self.files.shape(name)
            if shape != tuple(target.shape):
                raise ModelError(
                    f"{stored.name!r} is {list(shape or ())} on disk, but config.json makes it "
                    f"{list(target.shape)}. Correct the sizes in config.json, or use the "
                    "config.json that belongs to these files."
                )
            if (header.dtype in FLOATS) != target.is_floating_point():
                kind = "16-bit or 32-bit floats" if target.is_floating_point() else "integers"
                raise ModelError(
                    f"{stored.name!r} is stored as {header.dtype}, but the {self.kind} has {kind} "
                    "there. If the model is quantized, give the 16-bit model that it was made "
                    "from; else store the tensor in its own type."
                )

    def sorted_leftovers(self, drop: tuple[str, ...]) -> Leftovers:
        """The leftovers by kind. Raises ModelError for a loss that `drop` does not name."""
        skeleton = self.skeleton
        promised = promised_layers(self.source.config)
        mtp = mtp_tensors(self.leftovers, self.home, len(skeleton.blocks), promised)
        dropped = {
            p: mtp if p == MTP else tuple(n for n in self.leftovers if matches_pattern(n, p))
            for p in drop
        }
        for pattern, names in dropped.items():
            if not names:
                self._refuse_pattern(pattern)
        lost = {name for names in dropped.values() for name in names}
        mtp = tuple(name for name in mtp if name not in lost)
        placed = {*lost, *mtp}
        harmless: list[str] = []
        loss: list[str] = []
        for name in (name for name in self.leftovers if name not in placed):
            (harmless if self._is_harmless(name) else loss).append(name)
        if loss:
            patterns = " ".join(f"--drop '{pattern}'" for pattern in self._patterns(loss))
            raise ModelError(
                f"{self.source.folder} has tensors that the {self.kind} of its config.json has no "
                f"place for ({len(loss)}): {_listed(loss)}. {self._what_is_lost(loss)} To write a "
                f"checkpoint without them, which is another model, use {patterns}."
            )
        modules = mtp_modules(mtp, self.home, len(skeleton.blocks))
        return Leftovers(tuple(harmless), mtp, modules, dropped)

    def _is_harmless(self, name: str) -> bool:
        """Whether readers compute it, or it is an equal copy of a parameter."""
        if HARMLESS.search(name) or _is_mask(self.source.headers.get(name)):
            return True
        own = self._first_copy(name)
        return own is not None and equal(self.source.tensor(own), self.source.tensor(name))

    def _first_copy(self, name: str) -> str | None:
        """The stored tensor that `name` is a second copy of."""
        target = self.files.target(name) if name in self.source.files else None
        own = self.files.stored(target).name if target is not None and target in self.files else ""
        return own if own in self.source.files else None

    def _refuse_pattern(self, pattern: str) -> None:
        needed = next((n for n in self.source.files if matches_pattern(n, pattern)), None)
        raise ModelError(
            f"--drop {pattern!r} names {needed!r}, which the model needs."
            if needed
            else f"--drop {pattern!r} names no tensor of {self.source.folder}."
        )

    def _block_beyond(self, name: str) -> int | None:
        """The number of the block that has the tensor `name`, if the model has fewer blocks."""
        match = self._in_home.match(name)
        return int(match[1]) if match and int(match[1]) >= len(self.skeleton.blocks) else None

    def _patterns(self, loss: list[str]) -> list[str]:
        """Patterns of `--drop` that name `loss`: a star for numbers, or whole blocks and parts."""
        beyond = {n: self._block_beyond(n) for n in loss}
        patterns = dict.fromkeys(
            _stars(n) if at is None else f"{self.home}.{at}.*" for n, at in beyond.items()
        )
        if len(patterns) > PATTERNS:
            patterns = dict.fromkeys(f"{name.partition('.')[0]}.*" for name in loss)
        return list(patterns)

    def _what_is_lost(self, loss: list[str]) -> str:
        """The kinds of the tensors of `loss`, and what to correct: a sentence for each."""
        hints: dict[str, None] = {}
        deepest = max((self._block_beyond(name) or 0 for name in loss), default=0)
        alike: dict[tuple[str, bool], str] = {}
        for name in loss:
            alike.setdefault((_stars(name), self._block_beyond(name) is None), name)
        for name in alike.values():
            layout, copy = layout_of(name, leftover=True), self._first_copy(name)
            if self._block_beyond(name) is not None:
                text = (
                    f"Some are of blocks up to number {deepest}, but config.json counts "
                    f"{len(self.skeleton.blocks)}: correct num_hidden_layers."
                )
            elif copy is not None:
                text = f"{name!r} and {copy!r} are the same parameter with other values: keep one."
            elif layout is not None:
                text = f"Some are of {layout.title}: {layout.remedy}"
            elif name.startswith(f"{self.home}."):
                what = "biases" if name.endswith("bias") else "parts of the blocks"
                text = (
                    f"Some are {what} that config.json turns off (keys such as attention_bias, "
                    "mlp_bias, use_qk_norm): correct it."
                )
            else:
                text = (
                    "Some may be a head of another class: check architectures in config.json "
                    f"({', '.join(self.skeleton.model.config.architectures or ['none'])})."
                )
            hints.setdefault(text)
        return " ".join(hints)


def _stars(name: str) -> str:
    """`name` with stars for its numbers, equal for the same tensor of all blocks and experts."""
    return _NUMBER.sub("*", name)


def _last_parts(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more


def _is_mask(header: StoredTensor | None) -> bool:
    """Whether it is a causal mask [1, 1, positions, positions], as old GPT-2 files have them."""
    if header is None or not header.name.endswith(".bias") or len(header.shape) != 4:
        return False
    return header.shape[:2] == (1, 1) and header.shape[2] == header.shape[3]
