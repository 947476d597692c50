"""The machine of a validation, and the memory of the models."""

import platform
from dataclasses import dataclass

from salient.core.model_files import read_header
from salient.core.records import to_json
from salient.core.system import peak_memory
from salient.diagnose.host.probe import read_environment

from .model_pair import ModelPair


@dataclass(frozen=True)
class RunEnvironment:
    """The machine of a validation. memory_bytes: None if unknown; device: of the streamed models"""

    processor: str
    cores: int
    memory_bytes: int | None
    gpus: tuple[str, ...]
    system: str
    device: str


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of both models' weights, by part for the checkpoint, and this process's peak."""

    reference_bytes: int
    checkpoint_bytes: int
    peak_bytes: int | None
    parts: dict[str, int]

    def to_dict(self) -> dict[str, object]:
        parts = [{"name": name, "bytes": size} for name, size in self.parts.items()]
        return {**to_json(self), "parts": parts}


def run_environment(device: str) -> RunEnvironment:
    """This machine."""
    here = read_environment()
    gpus = tuple(card.name for card in here.cards)
    system = f"{platform.system()} {here.machine}, Python {platform.python_version()}"
    return RunEnvironment(here.cpu, here.cores, here.memory, gpus, system, device)


def memory_use(pair: ModelPair) -> MemoryUse:
    """The size of both models' weights, and this process's peak."""
    reference, checkpoint = (side.source.bytes_on_disk for side in pair.sides)
    return MemoryUse(reference, checkpoint, peak_memory(), _checkpoint_parts(pair))


def _checkpoint_parts(pair: ModelPair) -> dict[str, int]:
    source, blocks = pair.checkpoint.source, tuple(f"{b}." for b in pair.checkpoint.skeleton.blocks)
    linears, unquantized, rest = names = (
        "4-bit linears",
        "16-bit weights of blocks",
        "embedding, head and the rest",
    )
    sizes = dict.fromkeys(names, 0)
    for path in sorted(set(source.files.values())):
        for name, stored in read_header(path).items():
            quantized = source.is_quantized(name.rpartition(".")[0])
            part = linears if quantized else unquantized if name.startswith(blocks) else rest
            sizes[part] += stored.end - stored.start
    return {part: size for part, size in sizes.items() if size}
