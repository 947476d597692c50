"""The machine and the models of a validation."""

import platform

from salient.core.model_files import read_header
from salient.core.system import peak_memory
from salient.diagnose.host.probe import read_environment

from .model_pair import ModelPair
from .result import MemoryUse, ModelSummary, RunEnvironment


def run_environment(device: str) -> RunEnvironment:
    """This machine."""
    here = read_environment()
    return RunEnvironment(
        processor=here.cpu,
        cores=here.cores,
        memory_bytes=here.memory,
        gpus=tuple(card.name for card in here.cards),
        system=f"{platform.system()} {here.machine}, Python {platform.python_version()}",
        device=device,
    )


def model_summary(pair: ModelPair) -> ModelSummary:
    """The model that both are."""
    source, skeleton = pair.checkpoint.source, pair.checkpoint.skeleton
    return ModelSummary(
        architecture=type(skeleton.model).__name__,
        blocks=len(skeleton.blocks),
        width=skeleton.width,
        vocabulary=skeleton.vocabulary,
        scheme=str(source.scheme) if source.scheme else None,
        format=source.format.name if source.format else None,
        bits_per_weight=source.scheme.bits_per_weight if source.scheme else None,
    )


def memory_use(pair: ModelPair) -> MemoryUse:
    """The size of both models' weights, and this process's peak."""
    return MemoryUse(
        reference_bytes=pair.reference.source.bytes_on_disk,
        checkpoint_bytes=pair.checkpoint.source.bytes_on_disk,
        peak_bytes=peak_memory(),
        parts=_checkpoint_parts(pair),
    )


def _checkpoint_parts(pair: ModelPair) -> dict[str, int]:
    source, blocks = pair.checkpoint.source, tuple(f"{b}." for b in pair.checkpoint.skeleton.blocks)
    linears, unquantized, rest = (
        "4-bit linears",
        "16-bit weights of blocks",
        "embedding, head and the rest",
    )
    sizes = {linears: 0, unquantized: 0, rest: 0}
    for path in sorted(set(source.files.values())):
        for name, stored in read_header(path).items():
            quantized = source.is_quantized(name.rpartition(".")[0])
            part = linears if quantized else unquantized if name.startswith(blocks) else rest
            sizes[part] += stored.end - stored.start
    return {part: size for part, size in sizes.items() if size}
