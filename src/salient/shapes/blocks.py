"""The MLP and the experts of a block from a config. Imports no torch."""

from .config_reader import ConfigReader
from .families import ExpertNames, Fact, MlpNames
from .model_shape import BlockShape, CacheShape, LinearShape, Part


def is_true(fact: Fact, config: ConfigReader) -> bool:
    """A fact of the family, or the value of the flag that decides it."""
    return config.flag(fact) if isinstance(fact, str) else fact


def mlp_linears(
    layout: MlpNames,
    hidden: int,
    inner: int,
    *,
    bias: bool,
    part: Part = "mlp",
    copies: int = 1,
    active: int = 1,
) -> tuple[LinearShape, ...]:
    """An MLP of `inner` channels: gate and up cut by their outputs, down by its inputs."""
    *entries, last = (f"{layout.module}.{name}" if layout.module else name for name in layout.names)
    fused = layout.gated and len(entries) == 1
    out, joined = inner * (2 if fused else 1), "gate_up_proj" if len(entries) == 2 else ""
    linears = [
        LinearShape(name, out, hidden, part, "out", joined, bias, copies, active)
        for name in entries
    ]
    linears.append(LinearShape(last, hidden, inner, part, "in", "", bias, copies, active))
    return tuple(linears)


def dense_block(layout: MlpNames, times: int, config: ConfigReader) -> BlockShape:
    """An MLP that every token passes; `times` hidden widths wide where the config has no width."""
    hidden = config.count("hidden_size")
    key = "intermediate_size_mlp" if config.has("intermediate_size_mlp") else "intermediate_size"
    inner = config.count(key, times * hidden or None)
    linears = mlp_linears(layout, hidden, inner, bias=is_true(layout.bias, config))
    return BlockShape("", linears, CacheShape())


def experts_block(layout: ExpertNames, config: ConfigReader) -> BlockShape:
    """A mixture of experts with its router and its shared expert."""
    hidden, inner = config.count("hidden_size"), config.count(layout.inner)
    many, chosen = (
        config.count("num_experts", least=0),
        config.count("num_experts_per_tok", least=0),
    )
    if chosen > many:
        config.refuse("num_experts_per_tok", f"a number up to the {many} experts", chosen)
    linears: list[LinearShape] = []
    latent = config.count(layout.latent, hidden) if layout.latent else hidden
    if many:
        bias = is_true(layout.router_bias, config)
        linears = [
            LinearShape(
                layout.router, many + _without_weights(config), hidden, "router", "none",
                bias=bias, unquantized=True,
            ),
            *mlp_linears(
                layout.mlp, latent, inner, bias=is_true(layout.mlp.bias, config),
                part="experts", copies=many, active=chosen,
            ),
        ]  # fmt: skip
    if latent != hidden:
        into, back = layout.latent_names
        linears.append(LinearShape(into, latent, hidden, "shared experts", "none"))
        linears.append(LinearShape(back, hidden, latent, "shared experts", "none"))
    if layout.shared:
        shared = config.count("n_shared_experts", 1, least=0)
        wide = config.count(layout.shared_inner, least=0) if layout.shared_inner else inner * shared
        bias = is_true(layout.shared.bias, config)
        part = "shared experts"
        linears += mlp_linears(layout.shared, hidden, wide, bias=bias, part=part) if wide else ()
    if layout.shared_gate:
        linears.append(
            LinearShape(layout.shared_gate, 1, hidden, "router", "none", unquantized=True)
        )
    kind = "experts" if many else ""
    return BlockShape(kind, tuple(linears), CacheShape(), _expert_scalars(layout, config, many))


def _expert_scalars(layout: ExpertNames, config: ConfigReader, many: int) -> int:
    """Parameters that are no matrix: a correction of the scores, scales, a norm."""
    corrected = layout.correction and not config.flag("routes_by_hash")
    other = many + _without_weights(config) if corrected else 0
    if layout.norm:
        other += config.count("hidden_size")
    if layout.router_scales:
        other += config.count("hidden_size") + many
    if layout.latent_norm and config.flag(layout.latent_norm):
        other += config.count(layout.latent, config.count("hidden_size"))
    return other


def _without_weights(config: ConfigReader) -> int:
    """LongCat's experts that return their input."""
    return config.count("zero_expert_num", 0, least=0)
