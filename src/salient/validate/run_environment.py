"""What was measured and where: the two models, their memory, this machine."""

import platform
from typing import Any

from salient import __version__
from salient.core.model_files import read_header
from salient.core.system import peak_memory
from salient.diagnose.host.probe import read_environment

from .model_pair import ModelPair


def facts(pair: ModelPair) -> dict[str, Any]:
    """The parts of the report that no stage measures."""
    checkpoint, skeleton = pair.checkpoint.source, pair.checkpoint.skeleton
    scheme, stored = checkpoint.scheme, checkpoint.format
    here = read_environment()
    return {
        "checkpoint": pair.checkpoint.name,
        "reference": pair.reference.name,
        "salient": __version__,
        "machine": {
            "processor": here.cpu,
            "cores": here.cores,
            "memory_bytes": here.memory,
            "gpus": [card.name for card in here.cards],
            "system": f"{platform.system()} {here.machine}, Python {platform.python_version()}",
            "device": str(pair.checkpoint.skeleton.device),
        },
        "model": {
            "architecture": type(skeleton.model).__name__,
            "blocks": len(skeleton.blocks),
            "width": skeleton.width,
            "vocabulary": skeleton.vocabulary,
            "scheme": str(scheme) if scheme else None,
            "format": stored.name if stored else None,
            "bits_per_weight": scheme.bits_per_weight if scheme else None,
        },
    }


def memory(pair: ModelPair) -> dict[str, Any]:
    """Bytes of both models' weights, by part for the checkpoint, and this process's peak."""
    return {
        "reference_bytes": pair.reference.source.bytes_on_disk,
        "checkpoint_bytes": pair.checkpoint.source.bytes_on_disk,
        "peak_bytes": peak_memory(),
        "parts": [{"name": name, "bytes": size} for name, size in _parts(pair).items() if size],
    }


def _parts(pair: ModelPair) -> dict[str, int]:
    source, blocks = pair.checkpoint.source, tuple(f"{b}." for b in pair.checkpoint.skeleton.blocks)
    found = {"4-bit linears": 0, "16-bit weights of blocks": 0, "embedding, head and the rest": 0}
    for path in sorted(set(source.files.values())):
        for name, stored in read_header(path).items():
            quantized = source.is_quantized(name.rpartition(".")[0])
            rest = "16-bit weights of blocks" if name.startswith(blocks) else None
            part = "4-bit linears" if quantized else rest or "embedding, head and the rest"
            found[part] += stored.end - stored.start
    return found
