"""Layers that predict further tokens (MTP, next-token layers), with which engines draft.

Transformers builds none of them, so no calibration token passes them: they stay in 16 bits under
their own names, and the checkpoint declares them unquantized. Two forms exist: blocks after the
last one (`model.layers.61` of 61: DeepSeek-V3, GLM-4.5, Step-3.5) and a part of its own (`mtp`:
Qwen3-Next; `model.mtp_layers`: MiMo; `model.mtp_block`: ERNIE).
"""

import re
from collections.abc import Iterable
from typing import Any

# config.json's counts of these layers, at the top or in a nested config.
COUNTS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", "num_mtp_layers")
OWN_PART = re.compile(r"^(?:.*?\.)?(?:mtp\w*|nextn\w*|multi_token\w*)(?=\.)")
# Parts that only these layers have: the projection of two hidden states, its norms, their own head.
TELLTALE = re.compile(r"^(eh_proj|enorm|hnorm|shared_head|final_layernorm_mtp)\b")


def mtp_tensors(names: Iterable[str], home: str, blocks: int, promised: int) -> tuple[str, ...]:
    """Those of `names` that belong to layers which predict further tokens.

    home: the name of the list of blocks, e.g. 'model.layers'
    blocks: how many the model has
    promised: how many further layers config.json counts
    """
    names = list(names)
    numbered = re.compile(rf"^{re.escape(home)}\.(\d+)\.(.*)")
    matches = {name: match for name in names if (match := numbered.match(name))}
    marked = {int(m[1]) for m in matches.values() if TELLTALE.match(m[2])}
    layers = {*range(blocks, blocks + promised), *(i for i in marked if i >= blocks)}
    return tuple(
        name
        for name in names
        if (name in matches and int(matches[name][1]) in layers)
        or (name not in matches and OWN_PART.match(name))
    )


def promised_layers(config: dict[str, Any]) -> int:
    """How many further layers config.json counts, wherever it does."""
    counts = [config[key] for key in COUNTS if isinstance(config.get(key), int)]
    nested = [promised_layers(part) for part in config.values() if isinstance(part, dict)]
    return max([0, *counts, *nested])


def without_mtp(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with no further layers, so that no engine looks for their tensors."""
    parts = {key: without_mtp(part) for key, part in config.items() if isinstance(part, dict)}
    return config | parts | {key: 0 for key in COUNTS if config.get(key)}


def mtp_modules(names: Iterable[str], home: str, blocks: int) -> tuple[str, ...]:
    """The names under which engines look for the layers of the tensors `names`.

    A layer with a part of its own counts as a block after the last one, too: so vLLM calls those of
    MiMo, ERNIE and LongCat (0.32, `*_mtp.py`).
    """
    modules: dict[str, None] = {}
    for name in names:
        own = OWN_PART.match(name)
        modules[own[0] if own else ".".join(name.split(".")[: home.count(".") + 2])] = None
        if own:
            number = re.match(r"\.(?:layers\.)?(\d+)\.", name[own.end() :])
            modules[f"{home}.{blocks + int(number[1] if number else 0)}"] = None
    return tuple(sorted(modules))
