"""Parts of a few families in addition to attention and MLP. Imports no torch.

Each function of IN_BLOCK returns a part of every block; each of OUTSIDE the parameters of
embeddings and of others outside the blocks.
"""

from collections.abc import Callable

from .config_reader import MOST_LAYERS, ConfigReader
from .model_shape import BlockShape, CacheShape, LinearShape


def _per_layer_input(config: ConfigReader) -> BlockShape:
    """Gemma 3n and 4: an embedding of the token for each layer, gated into the block."""
    hidden, own = config.count("hidden_size"), config.count("hidden_size_per_layer_input", least=0)
    if not own:
        return BlockShape("", (), CacheShape())
    linears = (
        LinearShape("per_layer_input_gate", own, hidden, "mlp", "none"),
        LinearShape("per_layer_projection", hidden, own, "mlp", "none"),
    )
    return BlockShape("", linears, CacheShape(), hidden)


def _per_layer_embedding(config: ConfigReader) -> tuple[int, int]:
    hidden, own = config.count("hidden_size"), config.count("hidden_size_per_layer_input", least=0)
    all_layers = config.count("num_hidden_layers", most=MOST_LAYERS) * own
    table = config.count("vocab_size_per_layer_input", config.count("vocab_size")) * all_layers
    return (table, all_layers * hidden + own) if own else (0, 0)


def _altup(config: ConfigReader) -> BlockShape:
    """Gemma 3n's alternating updates (arXiv 2301.13310) of some copies of the stream."""
    hidden, copies = config.count("hidden_size"), config.count("altup_num_inputs")
    outs = {
        "correction_coefs": (copies, copies),
        "prediction_coefs": (copies**2, copies),
        "modality_router": (copies, hidden),
    }
    linears = tuple(
        LinearShape(f"altup.{name}", *sizes, part="mlp", split="none", unquantized=True)
        for name, sizes in outs.items()
    )
    return BlockShape("", linears, CacheShape(), 2 * hidden)


def _altup_projections(config: ConfigReader) -> tuple[int, int]:
    return 0, 2 * (config.count("altup_num_inputs") - 1) * config.count("hidden_size") ** 2


def _laurel(config: ConfigReader) -> BlockShape:
    """Gemma 3n's learned residual of a low rank (arXiv 2411.07501)."""
    hidden, rank = config.count("hidden_size"), config.count("laurel_rank")
    linears = (
        LinearShape("laurel.linear_left", rank, hidden, "mlp", "none"),
        LinearShape("laurel.linear_right", hidden, rank, "mlp", "none"),
    )
    return BlockShape("", linears, CacheShape(), hidden)


def _hyper_connections(config: ConfigReader) -> BlockShape:
    """DeepSeek-V4's mixing of some copies of the stream, before attention and before the MLP."""
    copies = config.count("hc_mult")
    return _mixing(config, copies, (2 + copies) * copies, 3)


def _gated_hyper_connections(config: ConfigReader) -> BlockShape:
    """The same of Hunyuan V4, which mixes no copies with each other."""
    copies = config.count("hc_mult")
    return _mixing(config, copies, 2 * copies, 2)


def _mixing(config: ConfigReader, copies: int, mixes: int, scales: int) -> BlockShape:
    other = mixes * (copies * config.count("hidden_size") + 1) + scales
    return BlockShape("", (), CacheShape(), 2 * other)


def _hyper_head(config: ConfigReader) -> tuple[int, int]:
    copies = config.count("hc_mult")
    return 0, copies * (copies * config.count("hidden_size") + 1) + 1


def _block_residuals(config: ConfigReader) -> BlockShape:
    """Kimi K3's attention over the outputs of earlier blocks: twice a norm and a score."""
    on = config.count("attn_res_block_size", 0, least=0) > 0
    return BlockShape("", (), CacheShape(), 4 * config.count("hidden_size") if on else 0)


def _last_residual(config: ConfigReader) -> tuple[int, int]:
    on = config.count("attn_res_block_size", 0, least=0) > 0
    return 0, 2 * config.count("hidden_size") if on else 0


IN_BLOCK: dict[str, Callable[[ConfigReader], BlockShape]] = {
    "per-layer input": _per_layer_input,
    "altup": _altup,
    "laurel": _laurel,
    "hyper-connections": _hyper_connections,
    "gated hyper-connections": _gated_hyper_connections,
    "block residuals": _block_residuals,
}
OUTSIDE: dict[str, Callable[[ConfigReader], tuple[int, int]]] = {
    "per-layer input": _per_layer_embedding,
    "altup": _altup_projections,
    "hyper-connections": _hyper_head,
    "block residuals": _last_residual,
    "extra rows": lambda config: (config.count("extra_rows") * config.count("hidden_size"), 0),
}
