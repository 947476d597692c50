"""Names of modules in quantizers' lists: literals, globs, `re:` expressions, parts of a path.

Writers prefix a block's modules differently (model.layers.3., backbone.layers.3., ...), and lists
may have thousands of entries. So an entry with a block's number is filed under it, and what
follows the number is matched with the names in the block.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate

from salient.core.module_targets import bounded_expression
from salient.shapes.model_shape import LinearShape

_NUMBERED = re.compile(r"(?:^|.*\.)(?:layers|h|blocks|layer)\.(\d{1,6})(?:\.|(?=\*)|$)(.*)")
_ANY_BLOCK = re.compile(r"(?:^|.*\.)(?:layers|h|blocks|layer)\.\*(?:\.|$)(?=.)(.*)")
_PREFIXES = ("model.layers", "model.language_model.layers", "language_model.model.layers")
# Names of the same module in different files.
_SYNONYMS = (
    ("self_attn", "attn", "attention"),
    ("mlp", "ffn", "block_sparse_moe", "feed_forward", "moe"),
)
_HOMES = ("", "model.", "language_model.", "model.language_model.", "language_model.model.")
_HEADS = ("lm_head", "head", "output", "output_layer", "embed_out")
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embeddings")
MOST_PATTERNS = 200_000


def names_of(linear: LinearShape) -> tuple[str, ...]:
    """The names of a matrix in its block, of expert 0 where there are several."""
    name = linear.name.replace(".*.", ".0.")
    names = [name]
    first, _, rest = name.partition(".")
    for group in _SYNONYMS:
        if first in group:
            names += [f"{other}.{rest}" for other in group if other != first]
    if linear.joined:
        names += [f"{one.rpartition('.')[0]}.{linear.joined}" for one in names]
    return tuple(names)


@dataclass(frozen=True, eq=False)
class ModulePatterns:
    """Entries of a list of modules.

    blocks: entries of one block, by its number; anywhere: of all blocks
    whole: expressions, for full names
    """

    blocks: dict[int, "NamePattern"]
    anywhere: "NamePattern"
    whole: tuple[re.Pattern[str], ...] = ()
    _cache: dict[tuple[int, str], bool] = field(default_factory=dict[tuple[int, str], bool])

    def match(self, index: int, linear: LinearShape) -> bool:
        """Whether an entry means `linear` in block `index`."""
        key = index, linear.name
        if key not in self._cache:
            self._cache[key] = self._match(index, names_of(linear))
        return self._cache[key]

    def _match(self, index: int, names: tuple[str, ...]) -> bool:
        own = self.blocks.get(index)
        return (
            (own is not None and any(own.match(name) for name in names))
            or any(self.anywhere.match(name) for name in names)
            or any(
                pattern.match(f"{prefix}.{index}.{name}")
                for pattern in self.whole
                for prefix in _PREFIXES
                for name in names
            )
        )

    @property
    def head(self) -> bool:
        """Whether an entry names the output head."""
        return self._outer(_HEADS)

    @property
    def embedding(self) -> bool:
        return self._outer(_EMBEDDINGS)

    def _outer(self, names: tuple[str, ...]) -> bool:
        paths = [f"{home}{name}" for home in _HOMES for name in names]
        return any(
            self.anywhere.match(path) or any(pattern.match(path) for pattern in self.whole)
            for path in paths
        )


@dataclass(frozen=True)
class NamePattern:
    """Literals, matched by whole parts of a path, and globs."""

    literals: frozenset[str]
    globs: re.Pattern[str] | None

    def match(self, name: str) -> bool:
        parts = name.split(".")
        if self.literals and not self.literals.isdisjoint(_runs(parts)):
            return True
        return self.globs is not None and self.globs.match(f"block.{name}") is not None


def module_patterns(entries: Iterable[object]) -> ModulePatterns:
    """The patterns of a foreign list; what is no text is left out."""
    blocks: dict[int, list[str]] = {}
    anywhere: list[str] = []
    whole: list[re.Pattern[str]] = []
    for count, entry in enumerate(entries):
        if not isinstance(entry, str) or not entry or count >= MOST_PATTERNS:
            continue
        if entry.startswith("re:"):
            whole += filter(None, [bounded_expression(entry[3:])])
        elif numbered := _NUMBERED.fullmatch(entry):
            blocks.setdefault(int(numbered[1]), []).append(numbered[2] or "*")
        elif general := _ANY_BLOCK.fullmatch(entry):
            anywhere.append(general[1])
        else:
            anywhere.append(entry)
    return ModulePatterns(
        {index: _pattern(names) for index, names in blocks.items()},
        _pattern(anywhere),
        tuple(whole),
    )


def _pattern(entries: list[str]) -> NamePattern:
    globs = [entry for entry in entries if any(mark in entry for mark in "*?[")]
    literals = frozenset(entry.removesuffix(".weight") for entry in entries if entry not in globs)
    either = "|".join(f"(?:{_glob(one)})" for one in dict.fromkeys(globs))
    return NamePattern(literals, re.compile(either) if globs else None)


def _glob(entry: str) -> str:
    """A glob as an expression that also takes what is below the module, with any path before."""
    body = translate(entry).removeprefix("(?s:").rpartition(")")[0]
    return rf"(?s:(?:.*\.)?(?:{body})(?:\..*)?)\Z"


def _runs(parts: list[str]) -> list[str]:
    """Every run of neighbouring parts of a path."""
    count = len(parts)
    return [
        ".".join(parts[start:end]) for start in range(count) for end in range(start + 1, count + 1)
    ]
