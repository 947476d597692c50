"""The matrices of MLPs, experts and routers. Imports no torch."""

from .attention import holds
from .config_reader import ConfigReader
from .family import ExpertNames, MlpNames
from .model_shape import BlockShape, CacheShape, LinearShape, Part

JOIN = "gate_up_proj"


def mlp_linears(
    how: MlpNames,
    says: ConfigReader,
    inner: int,
    part: Part = "mlp",
    copies: int = 1,
    active: int = 1,
) -> tuple[LinearShape, ...]:
    """An MLP of `inner` channels: gate and up cut by their outputs, down by its inputs."""
    hidden, bias = says.count("hidden_size"), holds(how.bias, says)
    *entries, last = (f"{how.module}.{name}" if how.module else name for name in how.names)
    fused = how.gated and len(entries) == 1
    made = [
        LinearShape(
            name, inner * (2 if fused else 1), hidden, part, "out",
            JOIN if len(entries) == 2 else "", bias, copies, active,
        )
        for name in entries
    ]  # fmt: skip
    made.append(LinearShape(last, hidden, inner, part, "in", "", bias, copies, active))
    return tuple(made)


def dense_block(how: MlpNames, times: int, says: ConfigReader) -> BlockShape:
    """An MLP that every token passes; `times` hidden widths wide where the config does not say."""
    default = times * says.count("hidden_size") or None
    word = "intermediate_size_mlp" if says.has("intermediate_size_mlp") else "intermediate_size"
    return BlockShape("", mlp_linears(how, says, says.count(word, default)), CacheShape())


def experts_block(how: ExpertNames, says: ConfigReader) -> BlockShape:
    """A mixture of experts with its router and its shared expert."""
    hidden, inner = says.count("hidden_size"), says.count(how.inner)
    many, chosen = says.count("num_experts", least=0), says.count("num_experts_per_tok", least=0)
    if chosen > many:
        says.refuse("num_experts_per_tok", f"a number up to the {many} experts", chosen)
    linears: list[LinearShape] = []
    if many:
        bias = holds(how.router_bias, says)
        linears = [
            LinearShape(how.router, many, hidden, "router", "none", bias=bias, unquantized=True),
            *mlp_linears(how.mlp, says, inner, "experts", many, chosen),
        ]
    if how.shared:
        shared = says.count("n_shared_experts", 1, least=0)
        wide = says.count(how.shared_inner, least=0) if how.shared_inner else inner * shared
        linears += mlp_linears(how.shared, says, wide, "shared experts") if wide else ()
    if how.shared_gate:
        linears.append(LinearShape(how.shared_gate, 1, hidden, "router", "none", unquantized=True))
    kind = "experts" if many else ""
    return BlockShape(kind, tuple(linears), CacheShape(), many if how.correction else 0)
