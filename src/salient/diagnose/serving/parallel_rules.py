"""Rules about several GPUs and nodes. Facts are vLLM 0.32's, by file name."""

from typing import Any

from .rule_context import BOTH, RuleContext, ServingRule

_GPUS_A_NODE = 8  # of the largest common servers
_SIZES = (1, 2, 4, 8, 16)


def group_size(context: RuleContext) -> int:
    """Inputs per scale, by the checkpoint's config; 0 where it has none."""
    config = context.quantization
    groups: Any = config.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) and groups else None
    weights = first.get("weights") if isinstance(first, dict) else None
    sizes = (
        config.get("group_size"),
        config.get("q_group_size"),
        weights.get("group_size") if isinstance(weights, dict) else None,
    )
    known = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool)]
    return known[0] if known and 0 < known[0] < 2**20 else 0


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
    group = group_size(context)
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
    width, group = _row_widths(context)[name], group_size(context)
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


def _copies(context: RuleContext) -> bool:
    several = context.dense and context.size("data_parallel_size") > 1
    return several and not _external_copies(context)


def _uses_ray(context: RuleContext) -> bool:
    return context.text("distributed_executor_backend") == "ray"


RULES = (
    ServingRule(
        "heads-not-divisible",
        "error",
        "tensor_parallel_size does not divide the attention heads: {value}",
        _cut_heads,
        why="vLLM stops: the heads must be divisible by the tensor parallel size.",
        keys=("tensor_parallel_size",),
        do=("set tensor_parallel_size to one that fits",),
        rank=7,
        engines=BOTH,
    ),
    ServingRule(
        "groups-cut",
        "error",
        "tensor_parallel_size cuts groups of weights: {value}",
        _cut_groups,
        why="vLLM falls back to the slow kernel, which then refuses the shapes too (vLLM issue "
        "21695): 'not aligned with the quantized weight shape'.",
        keys=("tensor_parallel_size",),
        do=(
            "set tensor_parallel_size to one that fits, or",
            "set pipeline_parallel_size in its place: it cuts between layers",
            "or quantize with smaller groups: salient quantize MODEL --scheme w4-g64",
        ),
        rank=7,
        engines=BOTH,
    ),
    ServingRule(
        "cache-copied",
        "note",
        "Some GPUs hold copies of the KV cache: {value}",
        _copied_cache,
        why="More GPUs than key-value heads add memory for weights, none for the cache.",
        keys=("tensor_parallel_size",),
    ),
    ServingRule(
        "nodes-missing",
        "error",
        "The settings need {value} GPUs, and there is no second node",
        _nodes_missing,
        why="vLLM stops where the world size is larger than this node's GPUs; Ray is no longer the "
        "default (vllm/config/parallel.py).",
        keys=("tensor_parallel_size", "pipeline_parallel_size"),
        do=(
            "--nnodes N --node-rank 0 --master-addr ADDRESS here; on the others their rank and "
            "--headless",
            "or, on a Ray cluster: --distributed-executor-backend ray",
        ),
        certainty="likely",
    ),
    ServingRule(
        "nodes-without-address",
        "error",
        "nnodes is set without master_addr",
        lambda c: c.size("nnodes") > 1 and not c.is_set("master_addr"),
        why="Its default is 127.0.0.1: the nodes never find each other, and the start hangs.",
        keys=("nnodes", "master_addr"),
        do=("add --master-addr with the address of the node of rank 0",),
    ),
    ServingRule(
        "ray-with-nodes",
        "error",
        "nnodes is for vLLM's own processes; Ray has nodes of its own",
        lambda c: c.size("nnodes") > 1 and _uses_ray(c),
        why="vLLM stops: nnodes above 1 goes with the backends mp, uni, external_launcher.",
        keys=("nnodes", "distributed_executor_backend"),
        change={"distributed_executor_backend": "mp"},
    ),
    ServingRule(
        "tensor-parallel-over-network",
        "slow",
        "Tensor parallelism crosses the network",
        _over_network,
        why="Every layer waits for two sums over all GPUs. vLLM's recipe: tensor parallel within a "
        "node, pipeline parallel between nodes.",
        keys=("tensor_parallel_size", "nnodes"),
        do=("tensor_parallel_size = GPUs of a node, pipeline_parallel_size = nodes",),
        certainty="likely",
    ),
    ServingRule(
        "worker-not-headless",
        "note",
        "A node of rank 1 or more needs no server of its own",
        _worker_with_server,
        keys=("node_rank", "headless"),
        do=("add --headless on every node but the first",),
        certainty="likely",
    ),
    ServingRule(
        "external-copies-of-dense",
        "error",
        "External data parallelism is for mixture-of-experts models; this one is dense",
        _external_copies,
        why="vLLM stops: 'Non-MoE models do not support external data parallel mode'.",
        keys=("data_parallel_size",),
        do=("start independent servers without --data-parallel-*, behind a load balancer",),
    ),
    ServingRule(
        "copies-of-dense",
        "note",
        "Data parallelism makes whole copies of a dense model",
        _copies,
        why="Independent servers behind a load balancer do the same, and one can fail alone.",
        keys=("data_parallel_size",),
    ),
    ServingRule(
        "experts-of-dense",
        "error",
        "enable_expert_parallel is set, and the model has no experts",
        lambda c: c.dense and c.flag("enable_expert_parallel") is True,
        why="vLLM stops: the number of experts must be greater than 0.",
        change={"enable_expert_parallel": None},
    ),
    ServingRule(
        "ray-for-one-node",
        "note",
        "Ray is used on one node",
        lambda c: _uses_ray(c) and 0 < _world(c) <= _GPUS_A_NODE and c.size("nnodes") == 1,
        why="vLLM's own processes (mp) suffice there; 0.32 no longer installs Ray.",
        change={"distributed_executor_backend": None},
        certainty="possible",
    ),
    ServingRule(
        "custom-all-reduce-off",
        "warning",
        "vLLM's own all-reduce is off",
        lambda c: (
            c.flag("disable_custom_all_reduce") is True and c.size("tensor_parallel_size") > 1
        ),
        why="The small sums of decoding take longer with NCCL. Right only where the GPUs cannot "
        "reach each other's memory.",
        change={"disable_custom_all_reduce": None},
        certainty="possible",
    ),
)
