"""Layers for multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2). Imports no torch.

Engines load them for speculative decoding only, so that they are counted apart from the model.
"""

from collections.abc import Callable

from .config_reader import MOST_LAYERS, ConfigReader
from .families import Family
from .model_shape import BlockShape

NOTE = (
    "{} layer(s) for multi-token prediction, {:,} parameters in its files: not counted, since "
    "engines load them for speculative decoding only"
)
ABSENT = "its config names {} layer(s) for multi-token prediction, which its files do not hold"


def layers_ahead(config: ConfigReader) -> int:
    """How many there are, under any of the names that configs have for it."""
    several = config.count("mtp_transformer_layers", 1)
    return config.count("num_mtp_layers", 0, least=0, most=MOST_LAYERS) * several


def count_ahead(
    family: Family,
    config: ConfigReader,
    tables: int,
    last: tuple[str, str],
    block: Callable[[str, str], BlockShape],
) -> tuple[int, list[str]]:
    """Their parameters, and a note; `tables` is the size of embedding and head, `last` the kinds of
    the last block, `block` makes one."""
    layers = layers_ahead(config)
    if not layers:
        return 0, []
    if family.ahead is None:
        return 0, [ABSENT.format(layers)]
    kinds = family.ahead.block or last
    pairs = config.values.get("ahead_blocks") or [kinds]
    hidden = config.count("hidden_size")
    each = sum(block(*pair).parameters for pair in pairs) + 2 * hidden**2 + 3 * hidden
    total = layers * (each + (tables if family.ahead.tables else 0))
    return total, [NOTE.format(layers, total)]
