"""A model folder's tensors against the model that its config.json describes, before any is read.

Every parameter needs a stored tensor of its shape and of a float type; every stored tensor needs a
place in the model. Tensors without one are leftovers: tables that every reader computes are
harmless, multi-token-prediction layers are known extras, and all others are a loss, which is
refused unless `--drop` names them.
"""

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from salient.core.errors import ModelError
from salient.core.model_files import StoredTensor

from .skeleton import Skeleton

# Computed by every reader: rotary tables, causal masks, positions.
HARMLESS = re.compile(
    r"(^|\.)(rotary_emb|rotary_pos_emb|rope)\.|(^|[._])inv_freq$|\.(masked_bias|causal_mask|bias_mask)$"
    r"|\.(cos|sin)_cached$|(^|\.)position_ids$|\.embed_positions\.weights$"
    r"|\.relative_position_index$|\.num_batches_tracked$"
)
MTP = re.compile(r"(^|\.)mtp|nextn|multi_token")
FLOATS = ("F64", "F32", "F16", "BF16")
LISTED = 3  # of many tensors, how many a message names


@dataclass(frozen=True)
class Leftovers:
    """Stored tensors that the model has no place for.

    harmless: computed by every reader
    extras: layers that predict further tokens
    dropped: pattern of `--drop` -> the names that it drops
    """

    harmless: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        lost = (name for names in self.dropped.values() for name in names)
        return tuple(dict.fromkeys((*lost, *self.extras, *self.harmless)))


def check_files(skeleton: Skeleton, drop: tuple[str, ...] = ()) -> Leftovers:
    """Compare the files of `skeleton.source` with its model, from headers alone.

    Raises ModelError naming the tensors that are missing, of another shape or type, or that the
    model has no place for.
    """
    checker = _FileChecker(skeleton, drop)
    checker.check_missing()
    checker.check_shapes()
    return checker.sorted_leftovers()


@dataclass
class _FileChecker:
    skeleton: Skeleton
    drop: tuple[str, ...]

    def __post_init__(self) -> None:
        skeleton = self.skeleton
        self.source, self.files = skeleton.source, skeleton.files
        self.folder, self.kind = self.source.folder, type(skeleton.model).__name__
        self.expected: dict[str, Tensor] = dict(skeleton.model.state_dict())
        for index in range(len(skeleton.blocks)):
            state = skeleton.bare(index).state_dict()
            self.expected |= {f"{skeleton.blocks[index]}.{n}": t for n, t in state.items()}
        self.leftovers = skeleton.unknown_names()

    def check_missing(self) -> None:
        """Refuse parameters that no file has."""
        tied: dict[str, str] = self.skeleton.model.all_tied_weights_keys
        missing = [
            name
            for name in self.expected
            if name not in self.files and not (name in tied and tied[name] in self.files)
        ]
        if not missing:
            return
        self.files.check_combined(missing[0])
        raise ModelError(
            f"{self.folder} has no tensor {_listed(missing)} of the {self.kind} that its "
            f"config.json describes. {self._why_missing(missing)}"
        )

    def _why_missing(self, missing: list[str]) -> str:
        for lost in missing:
            for name in self.leftovers:
                prefix = name.removesuffix(f".{lost}")
                if prefix != name:
                    return (
                        f"It has {name!r}: its tensors begin with '{prefix}.'. Write the folder "
                        "again without that prefix."
                    )
        ends = {name.rpartition(".")[0].rpartition(".")[2] for name in missing}
        near = [n for n in self.leftovers if n.rpartition(".")[0].rpartition(".")[2] in ends]
        near = near or self.leftovers
        there = f"It has {_listed(near)} instead. " if near else ""
        return (
            f"{there}Correct config.json so that it describes these files, or add the file with "
            "the missing tensors."
        )

    def check_shapes(self) -> None:
        """Refuse tensors of another shape or of a type that no parameter has."""
        for name, target in self.expected.items():
            stored = self.files.stored(name)
            header = self.source.headers.get(stored.name)
            if name not in self.files or header is None:  # codes have another name
                continue
            shape = tuple(target.shape)
            if stored.part is not None:
                architecture = self.skeleton.architecture
                shape = tuple(architecture.wanted[architecture.places[name].name].shape)
            if header.shape != shape:
                raise ModelError(
                    f"{stored.name!r} is {list(header.shape)} on disk, but config.json makes it "
                    f"{list(shape)}. Correct the sizes in config.json, or use the config.json "
                    "that belongs to these files."
                )
            if target.is_floating_point() and header.dtype not in FLOATS:
                raise ModelError(
                    f"{stored.name!r} is stored as {header.dtype}, which is no 16-bit or 32-bit "
                    f"float, and config.json declares no quantization. {_UNQUANTIZED}"
                )

    def sorted_leftovers(self) -> Leftovers:
        """The leftovers by kind. Raises ModelError for a loss that `drop` does not name."""
        dropped = {p: tuple(n for n in self.leftovers if fits(n, p)) for p in self.drop}
        for pattern, names in dropped.items():
            if not names:
                self._refuse_pattern(pattern)
        lost = {name for names in dropped.values() for name in names}
        rest = [name for name in self.leftovers if name not in lost]
        harmless = [n for n in rest if HARMLESS.search(n) or _is_mask(self.source.headers.get(n))]
        extras = [n for n in rest if n not in harmless and self._is_mtp(n)]
        loss = [name for name in rest if name not in harmless and name not in extras]
        if loss:
            self._refuse(loss)
        return Leftovers(tuple(harmless), tuple(extras), dropped)

    def _is_mtp(self, name: str) -> bool:
        config = self.skeleton.model.config.get_text_config()
        home, _, count = self.skeleton.blocks[-1].rpartition(".")
        more = int(getattr(config, "num_nextn_predict_layers", None) or 0)
        beyond = range(int(count) + 1, int(count) + 1 + more)
        return bool(MTP.search(name)) or any(name.startswith(f"{home}.{i}.") for i in beyond)

    def _refuse_pattern(self, pattern: str) -> None:
        needed = next((n for n in self.source.files if fits(n, pattern)), None)
        raise ModelError(
            f"--drop {pattern!r} names {needed!r}, which the model needs."
            if needed
            else f"--drop {pattern!r} names no tensor of {self.folder}."
        )

    def _refuse(self, loss: list[str]) -> None:
        patterns = " ".join(f"--drop '{pattern}'" for pattern in globs(loss))
        raise ModelError(
            f"{self.folder} has {len(loss)} tensors that the {self.kind} of its config.json has no "
            f"place for: {_listed(loss)}. A checkpoint without them would be another model. "
            f"Correct config.json, or leave them out with {patterns}."
        )


_UNQUANTIZED = "Use the unquantized model, or convert this one to 16-bit floats first."


def fits(name: str, pattern: str) -> bool:
    """Whether `--drop pattern` means the tensor `name`: all of it, its last parts, or a glob."""
    return name.endswith(f".{pattern}") or fnmatchcase(name, pattern)


def globs(names: list[str]) -> list[str]:
    """Patterns for `names`, with a star for numbers."""
    return list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more


def _is_mask(header: StoredTensor | None) -> bool:
    """Whether it is a causal mask [1, 1, positions, positions], as old GPT-2 files have them."""
    if header is None or not header.name.endswith(".bias"):
        return False
    shape: Any = header.shape
    return len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
