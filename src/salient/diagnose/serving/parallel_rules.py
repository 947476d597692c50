"""Rules about several GPUs and nodes: how the model is divided among them.

Facts are vLLM 0.32's, by file name.
"""

from typing import Any

from .rule_context import RuleContext, ServingRule

_BOTH = ("vllm", "sglang")
_GPUS_A_NODE = 8  # of the largest common servers
_SIZES = (1, 2, 4, 8, 16)


def group_size(case: RuleContext) -> int:
    """Inputs that share a scale, by the checkpoint's config; 0 where it does not say."""
    held = case.quantization
    groups: Any = held.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) and groups else None
    weights = first.get("weights") if isinstance(first, dict) else None
    sizes = (
        held.get("group_size"),
        held.get("q_group_size"),
        weights.get("group_size") if isinstance(weights, dict) else None,
    )
    known = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool)]
    return known[0] if known and 0 < known[0] < 2**20 else 0


def _row_widths(case: RuleContext) -> dict[str, int]:
    """Inputs of the layers that tensor parallelism cuts by their inputs, by name."""
    heads = case.counts("num_attention_heads")
    head_dim = case.counts("head_dim") or (case.counts("hidden_size") // heads if heads else 0)
    widths = {
        "down_proj": case.counts("intermediate_size") if case.dense else 0,
        "experts' down_proj": case.counts("moe_intermediate_size"),
        "o_proj": 0 if case.holds("kv_lora_rank") else heads * head_dim,
    }
    return {name: width for name, width in widths.items() if width}


def _split_groups(case: RuleContext, size: int) -> str:
    """The first layer whose share on each of `size` GPUs is no whole number of groups."""
    group = group_size(case)
    for name, width in _row_widths(case).items():
        if group and size > 1 and (width % size or width // size % group):
            return name
    return ""


def _whole_heads(case: RuleContext, size: int) -> bool:
    return case.counts("num_attention_heads") % size == 0


def _fitting(case: RuleContext) -> str:
    """The sizes that divide heads and groups."""
    fits = [
        str(size) for size in _SIZES if _whole_heads(case, size) and not _split_groups(case, size)
    ]
    return ", ".join(fits) or "1"


def _cut_groups(case: RuleContext) -> str:
    size = case.size("tensor_parallel_size")
    name = _split_groups(case, size)
    if not name:
        return ""
    width, group = _row_widths(case)[name], group_size(case)
    return f"{width} / {size} inputs of {name} with groups of {group}; what fits: {_fitting(case)}"


def _cut_heads(case: RuleContext) -> str:
    size, heads = case.size("tensor_parallel_size"), case.counts("num_attention_heads")
    if size < 2 or not heads or heads % size == 0:
        return ""
    return f"{heads} heads over {size} GPUs; what fits: {_fitting(case)}"


def _copied_cache(case: RuleContext) -> str:
    size, heads = case.size("tensor_parallel_size"), case.counts("num_key_value_heads")
    latent = case.holds("kv_lora_rank")
    return f"{heads} key-value heads, {size} GPUs" if heads and size > heads and not latent else ""


def _world(case: RuleContext) -> int:
    return case.size("tensor_parallel_size") * case.size("pipeline_parallel_size")


def _nodes_missing(case: RuleContext) -> str:
    ray = case.text("distributed_executor_backend") == "ray"
    ray = ray or case.text("data_parallel_backend") == "ray"
    alone = case.size("nnodes") == 1 and not ray
    return str(_world(case)) if alone and _world(case) > _GPUS_A_NODE else ""


def _without_master(case: RuleContext) -> bool:
    return case.size("nnodes") > 1 and not case.given("master_addr")


def _ray_with_nodes(case: RuleContext) -> bool:
    return case.size("nnodes") > 1 and case.text("distributed_executor_backend") == "ray"


def _over_network(case: RuleContext) -> bool:
    nodes, stages = case.size("nnodes"), case.size("pipeline_parallel_size")
    parts = case.size("tensor_parallel_size")
    return nodes > 1 and stages == 1 and parts > 1 and case.size("data_parallel_size") == 1


def _worker_with_server(case: RuleContext) -> bool:
    rank = case.number("node_rank")
    return case.size("nnodes") > 1 and bool(rank) and not case.flag("headless")


def _external_copies(case: RuleContext) -> bool:
    external = case.flag("data_parallel_external_lb") or case.given("data_parallel_rank")
    return bool(case.dense and external and case.size("data_parallel_size") != 1)


def _copies(case: RuleContext) -> bool:
    return case.dense and case.size("data_parallel_size") > 1 and not _external_copies(case)


RULES = (
    ServingRule(
        "heads-not-divisible",
        "error",
        "tensor_parallel_size does not divide the attention heads: {0}",
        ("tensor_parallel_size",),
        _cut_heads,
        matters="vLLM stops: the heads must be divisible by the tensor parallel size.",
        do=("set tensor_parallel_size to one that fits",),
        rank=7,
        engines=_BOTH,
    ),
    ServingRule(
        "groups-cut",
        "error",
        "tensor_parallel_size cuts groups of weights: {0}",
        ("tensor_parallel_size",),
        _cut_groups,
        matters="vLLM falls back to the slow kernel, which then refuses the shapes too (vLLM issue "
        "21695): 'not aligned with the quantized weight shape'.",
        do=(
            "set tensor_parallel_size to one that fits, or",
            "set pipeline_parallel_size in its place: it cuts between layers",
            "or quantize with smaller groups: salient quantize MODEL --scheme w4-g64",
        ),
        rank=7,
        engines=_BOTH,
    ),
    ServingRule(
        "cache-copied",
        "note",
        "Some GPUs hold copies of the KV cache: {0}",
        ("tensor_parallel_size",),
        _copied_cache,
        matters="More GPUs than key-value heads add memory for weights, none for the cache.",
    ),
    ServingRule(
        "nodes-missing",
        "error",
        "{0} GPUs are asked for, and no second node",
        ("tensor_parallel_size", "pipeline_parallel_size"),
        _nodes_missing,
        "likely",
        "vLLM stops where the world size is larger than this node's GPUs; Ray is no longer taken "
        "by default (vllm/config/parallel.py).",
        do=(
            "--nnodes N --node-rank 0 --master-addr ADDRESS here; on the others their rank and "
            "--headless",
            "or, on a Ray cluster: --distributed-executor-backend ray",
        ),
    ),
    ServingRule(
        "nodes-without-address",
        "error",
        "nnodes is set without master_addr",
        ("nnodes", "master_addr"),
        _without_master,
        matters="Its default is 127.0.0.1: the nodes never find each other, and the start hangs.",
        do=("add --master-addr with the address of the node of rank 0",),
    ),
    ServingRule(
        "ray-with-nodes",
        "error",
        "nnodes is for vLLM's own processes; Ray has nodes of its own",
        ("nnodes", "distributed_executor_backend"),
        _ray_with_nodes,
        matters="vLLM stops: nnodes above 1 goes with the backends mp, uni, external_launcher.",
        change=(("distributed_executor_backend", "mp"),),
    ),
    ServingRule(
        "tensor-parallel-over-network",
        "slow",
        "Tensor parallelism crosses the network",
        ("tensor_parallel_size", "nnodes"),
        _over_network,
        "likely",
        "Every layer waits for two sums over all GPUs. vLLM's recipe: tensor parallel within a "
        "node, pipeline parallel between nodes.",
        do=("tensor_parallel_size = GPUs of a node, pipeline_parallel_size = nodes",),
    ),
    ServingRule(
        "worker-not-headless",
        "note",
        "A node of rank 1 or more needs no server of its own",
        ("node_rank", "headless"),
        _worker_with_server,
        "likely",
        do=("add --headless on every node but the first",),
    ),
    ServingRule(
        "external-copies-of-dense",
        "error",
        "External data parallelism is for mixture-of-experts models; this one is dense",
        ("data_parallel_size",),
        _external_copies,
        matters="vLLM stops: 'Non-MoE models do not support external data parallel mode'.",
        do=("start independent servers without --data-parallel-*, behind a load balancer",),
    ),
    ServingRule(
        "copies-of-dense",
        "note",
        "Data parallelism makes whole copies of a dense model",
        ("data_parallel_size",),
        _copies,
        matters="Independent servers behind a load balancer do the same, and one can fail alone.",
    ),
    ServingRule(
        "experts-of-dense",
        "error",
        "enable_expert_parallel is set, and the model has no experts",
        ("enable_expert_parallel",),
        lambda case: case.dense and case.flag("enable_expert_parallel") is True,
        matters="vLLM stops: the number of experts must be greater than 0.",
        change=(("enable_expert_parallel", None),),
    ),
    ServingRule(
        "ray-for-one-node",
        "note",
        "Ray is asked for on one node",
        ("distributed_executor_backend",),
        lambda case: (
            case.text("distributed_executor_backend") == "ray"
            and 0 < _world(case) <= _GPUS_A_NODE
            and case.size("nnodes") == 1
        ),
        "possible",
        "vLLM's own processes (mp) suffice there; 0.32 no longer installs Ray.",
        change=(("distributed_executor_backend", None),),
    ),
    ServingRule(
        "custom-all-reduce-off",
        "warning",
        "vLLM's own all-reduce is off",
        ("disable_custom_all_reduce",),
        lambda case: (
            case.flag("disable_custom_all_reduce") is True and case.size("tensor_parallel_size") > 1
        ),
        "possible",
        "The small sums of decoding take longer with NCCL. Right only where the GPUs cannot reach "
        "each other's memory.",
        change=(("disable_custom_all_reduce", None),),
    ),
)
