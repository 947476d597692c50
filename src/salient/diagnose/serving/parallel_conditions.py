"""Conditions of rules about several GPUs and nodes."""

from .rule_context import Condition, RuleContext

_GPUS_A_NODE = 8  # of the largest common servers
_SIZES = (1, 2, 4, 8, 16)


def _row_widths(context: RuleContext) -> dict[str, int]:
    """Inputs of the layers that tensor parallelism cuts by their inputs, by name."""
    heads = context.config_size("num_attention_heads")
    latent = context.config_has("kv_lora_rank")
    widths = {
        "down_proj": context.config_size("intermediate_size") if context.dense else 0,
        "experts' down_proj": context.config_size("moe_intermediate_size"),
        "o_proj": 0 if latent else heads * context.head_dim,
    }
    return {name: width for name, width in widths.items() if width}


def _cut_layer(context: RuleContext, size: int) -> str:
    """The first layer whose share on each of `size` GPUs is no whole number of groups."""
    group = context.group_size
    for name, width in _row_widths(context).items():
        if group and size > 1 and (width % size or width // size % group):
            return name
    return ""


def _fitting_sizes(context: RuleContext) -> str:
    """The sizes that divide heads and groups."""
    heads = context.config_size("num_attention_heads")
    sizes = [str(n) for n in _SIZES if heads % n == 0 and not _cut_layer(context, n)]
    return ", ".join(sizes) or "1"


def _cut_groups(context: RuleContext) -> str:
    size = context.size("tensor_parallel_size")
    name = _cut_layer(context, size)
    if not name:
        return ""
    width, group = _row_widths(context)[name], context.group_size
    fitting = _fitting_sizes(context)
    return f"{width} / {size} inputs of {name} with groups of {group}; what fits: {fitting}"


def _cut_heads(context: RuleContext) -> str:
    size, heads = context.size("tensor_parallel_size"), context.config_size("num_attention_heads")
    if size < 2 or not heads or heads % size == 0:
        return ""
    return f"{heads} heads over {size} GPUs; what fits: {_fitting_sizes(context)}"


def _copied_cache(context: RuleContext) -> str:
    size, heads = context.size("tensor_parallel_size"), context.config_size("num_key_value_heads")
    latent = context.config_has("kv_lora_rank")
    return f"{heads} key-value heads, {size} GPUs" if heads and size > heads and not latent else ""


def _world(context: RuleContext) -> int:
    return context.size("tensor_parallel_size") * context.size("pipeline_parallel_size")


def _nodes_missing(context: RuleContext) -> str:
    backends = ("distributed_executor_backend", "data_parallel_backend")
    ray = any(context.text(key) == "ray" for key in backends)
    alone = context.size("nnodes") == 1 and not ray
    return str(_world(context)) if alone and _world(context) > _GPUS_A_NODE else ""


def _over_network(context: RuleContext) -> bool:
    nodes, stages = context.size("nnodes"), context.size("pipeline_parallel_size")
    ranks, copies = context.size("tensor_parallel_size"), context.size("data_parallel_size")
    return nodes > 1 and stages == 1 and ranks > 1 and copies == 1


def _worker_with_server(context: RuleContext) -> bool:
    rank = context.number("node_rank")
    return context.size("nnodes") > 1 and bool(rank) and not context.flag("headless")


def _external_copies(context: RuleContext) -> bool:
    balanced = context.flag("data_parallel_external_lb")
    external = balanced or context.is_set("data_parallel_rank")
    return bool(context.dense and external and context.size("data_parallel_size") != 1)


def _uses_ray(context: RuleContext) -> bool:
    return context.text("distributed_executor_backend") == "ray"


def _ray_for_one_node(context: RuleContext) -> bool:
    one_node = 0 < _world(context) <= _GPUS_A_NODE and context.size("nnodes") == 1
    return _uses_ray(context) and one_node


CONDITIONS: dict[str, Condition] = {
    "heads-not-divisible": _cut_heads,
    "groups-cut": _cut_groups,
    "cache-copied": _copied_cache,
    "nodes-missing": _nodes_missing,
    "nodes-without-address": lambda c: c.size("nnodes") > 1 and not c.is_set("master_addr"),
    "ray-with-nodes": lambda c: c.size("nnodes") > 1 and _uses_ray(c),
    "tensor-parallel-over-network": _over_network,
    "worker-not-headless": _worker_with_server,
    "external-copies-of-dense": _external_copies,
    "copies-of-dense": lambda c: (
        c.dense and c.size("data_parallel_size") > 1 and not _external_copies(c)
    ),
    "experts-of-dense": lambda c: c.dense and c.flag("enable_expert_parallel") is True,
    "ray-for-one-node": _ray_for_one_node,
    "custom-all-reduce-off": lambda c: (
        c.size("tensor_parallel_size") > 1 and c.flag("disable_custom_all_reduce") is True
    ),
}
