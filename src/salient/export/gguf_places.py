"""Which parameters of a checkpoint each tensor of a GGUF file is made from.

The names are those of the `gguf` library, which llama.cpp's converter uses. Experts, which a
checkpoint has apart, are one tensor. A parameter without a place, and a tensor of the template
without a parameter, are refused by name.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from salient.core.errors import CheckpointError, ModelError

from .gguf_template import REMEDY, GgufTemplate

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
# Tensors that the converter computes from config.json, and no parameter is: taken as they are.
COMPUTED = re.compile(r"rope_(freqs|factors_\w+)\.weight$|.*\.rope_freqs\.weight$")
# Modules of images and sound, which llama.cpp has in a file of their own (mmproj).
TOWER = re.compile(r"(^|\.)(visual|vision\w*|audio\w*|multi_modal_projector|mm_projector)\.")
# Buffers of old checkpoints.
BUFFER = re.compile(r"\.(rotary_emb\.inv_freq|masked_bias|attn\.bias)$")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_BLOCK = re.compile(r"\.(\d+)\.")
SUFFIXES = (".weight", ".bias")


@dataclass(frozen=True)
class Place:
    """A tensor of the file. parameters: the checkpoint's, all experts in order"""

    name: str
    parameters: tuple[str, ...]
    stacked: bool = False

    @property
    def block(self) -> str:
        """The block's prefix, "blk.3."; '' outside of blocks."""
        return self.name[: self.name.index(".", 4) + 1] if self.name.startswith("blk.") else ""

    @property
    def part(self) -> str:
        """The name without the block's number."""
        return self.name.removeprefix(self.block)


@dataclass(frozen=True)
class Places:
    """The file's tensors, in the template's order; computed: taken from the template as they are;
    left_out: parameters of towers and of blocks that predict further tokens"""

    places: tuple[Place, ...]
    computed: tuple[str, ...]
    left_out: tuple[str, ...]


def find_places(template: GgufTemplate, parameters: Iterable[str], blocks: int) -> Places:
    """Raises ModelError for a parameter without a place, or a tensor without a parameter."""
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    if template.architecture not in kinds:
        raise ModelError(
            f"The template's architecture {template.architecture!r} is unknown to the gguf package "
            f"installed. Update it: pip install -U gguf"
        )
    names = gguf.get_tensor_name_map(kinds[template.architecture], blocks)
    homes: dict[str, dict[int, str]] = {}
    stacked: set[str] = set()
    left_out: list[str] = []
    for parameter in parameters:
        if BUFFER.search(parameter):
            continue
        expert = _EXPERT.search(parameter)
        plain = _EXPERT.sub(".experts.", parameter)
        candidates = (plain, plain.replace("language_model.", ""), f"model.{plain}")
        home = next(filter(None, (names.get_name(c, SUFFIXES) for c in candidates)), None)
        if home is None and (TOWER.search(parameter) or _beyond(parameter, blocks)):
            left_out.append(parameter)
            continue
        if home is None:
            raise ModelError(
                f"{parameter!r} has no name in a GGUF file of the architecture "
                f"{template.architecture!r}. Salient cannot export this model."
            )
        if not home.endswith(SUFFIXES):
            home += ".weight"
        number = int(expert[1]) if expert else 0
        if number in homes.setdefault(home, {}):
            raise ModelError(
                f"{parameter!r} and {homes[home][number]!r} are both {home!r} in a GGUF file of "
                f"the architecture {template.architecture!r}. Salient cannot export this model."
            )
        homes[home][number] = parameter
        if expert:
            stacked.add(home)
    return Places(*_compared(template, homes, stacked), tuple(left_out))


def _compared(
    template: GgufTemplate, homes: dict[str, dict[int, str]], stacked: set[str]
) -> tuple[tuple[Place, ...], tuple[str, ...]]:
    """The places in the template's order, and the computed tensors. Raises ModelError."""
    if HEAD in template.tensors and HEAD not in homes and EMBEDDING in homes:
        homes[HEAD] = homes[EMBEDDING]  # tied
    computed = tuple(n for n in template.tensors if n not in homes and COMPUTED.match(n))
    lost = [name for name in template.tensors if name not in homes and name not in computed]
    extra = [name for name in homes if name not in template.tensors and name != HEAD]
    if lost or extra:
        one = f"it has {lost[0]!r}, which the checkpoint has no parameter for" if lost else ""
        other = f"it has no {extra[0]!r}, which {homes[extra[0]][0]!r} is" if extra else ""
        raise ModelError(
            f"The template {template.path.name} is of another model, or stores it in another way: "
            f"{' and '.join(filter(None, (one, other)))} ({len(lost)} and {len(extra)} such). "
            f"{REMEDY}"
        )
    order = [*template.tensors, *(name for name in homes if name not in template.tensors)]
    places: list[Place] = []
    for name in order:
        if name in computed:
            continue
        parts = homes[name]
        if sorted(parts) != list(range(len(parts))):
            missing = next(i for i in range(max(parts)) if i not in parts)
            raise CheckpointError(f"{name!r} lacks expert {missing}: the checkpoint is incomplete.")
        parameters = tuple(parts[i] for i in range(len(parts)))
        places.append(Place(name, parameters, name in stacked))
    return tuple(places), computed


def _beyond(parameter: str, blocks: int) -> bool:
    """Whether the parameter is of a block behind the last, or of one that predicts further."""
    number = _BLOCK.search(parameter)
    return parameter.startswith("mtp.") or (number is not None and int(number[1]) >= blocks)
