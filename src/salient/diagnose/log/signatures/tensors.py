"""Lines about tensors that do not fit what config.json says of them.

Texts of vLLM 0.32 from model_executor/parameter.py, models/utils.py, model_loader/ and
layers/quantization/utils/quant_utils.py.
"""

from salient.diagnose.log.signature import Signature

CHECK = "Look at the files: salient doctor {model}"
GROUP_SIZE = (
    "Compare quantization_config.group_size and bits in config.json with the tensors: qweight is "
    "[in, out/8], scales are [in/group_size, out].",
    CHECK,
)

TENSORS = (
    Signature(
        id="no-such-parameter",
        level="error",
        anchor="There is no module or parameter named ",
        pattern=r"There is no module or parameter named '(?P<parameter>[^']*"
        r"\.(?:qweight|qzeros|scales|weight_packed|weight_scale\w*|g_idx))'",
        title="The checkpoint has {parameter}, but config.json does not say that it is quantized",
        matters="vLLM built a 16-bit layer there: quantization_config is missing from config.json, "
        "or its modules_to_not_convert names the layer.",
        do=("Restore quantization_config in config.json from the checkpoint's source.", CHECK),
        rank=11,
        example="ValueError: There is no module or parameter named "
        "'model.layers.0.mlp.down_proj.qweight' in LlamaForCausalLM.",
    ),
    Signature(
        id="no-such-weight",
        level="error",
        anchor="There is no module or parameter named ",
        pattern=r"There is no module or parameter named '(?P<parameter>(?![^']*\.(?:qweight|qzeros|"
        r"scales|weight_packed|weight_scale\w*|g_idx)')[^']*)'",
        title="The checkpoint has {parameter}, which vLLM's model has not",
        do=("Upgrade vLLM, or check that config.json belongs to these weights.", CHECK),
        rank=11,
        example="ValueError: There is no module or parameter named 'model.visual.merger' in "
        "LlamaForCausalLM.",
    ),
    Signature(
        id="no-such-parameter-old",
        level="error",
        anchor="KeyError: '",
        pattern=r"KeyError: '(?P<parameter>[\w.]+\.(?:qweight|qzeros|scales|g_idx))'",
        title="The checkpoint has {parameter}, but vLLM's layer there is not quantized",
        matters="quantization_config is missing, or the layer's kind is not quantized in vLLM (a "
        "router, a vision tower).",
        do=("Restore quantization_config in config.json.", CHECK),
        rank=11,
        versions="up to 0.10",
        example="KeyError: 'layers.0.mlp.gate.qweight'",
    ),
    Signature(
        id="no-such-weight-old",
        level="error",
        anchor="KeyError: '",
        pattern=r"KeyError: '(?P<parameter>[\w.]+\.(?:weight|bias|weight_packed|weight_scale))'",
        title="The checkpoint has {parameter}, which vLLM's model has not",
        certainty="likely",
        matters="Often a part that the checkpoint keeps at 16 bits (a vision tower) and that vLLM "
        "quantizes, because modules_to_not_convert does not name it.",
        do=("Name the part in modules_to_not_convert of config.json, or upgrade vLLM.", CHECK),
        rank=12,
        versions="up to 0.10",
        example="KeyError: 'encoder.layers.0.attn.qkv.weight'",
    ),
    Signature(
        id="weights-missing",
        level="error",
        anchor="Following weights were not initialized from checkpoint: ",
        pattern=r"Following weights were not initialized from checkpoint: (?P<weights>.*)",
        title="The checkpoint lacks tensors: {weights}",
        matters="Without enable_weights_track vLLM serves such a checkpoint and answers wrongly.",
        do=("Download or quantize it again; files may be missing.", CHECK),
        rank=11,
        example="ValueError: Following weights were not initialized from checkpoint: "
        "{'model.layers.3.mlp.down_proj.qzeros'}",
    ),
    Signature(
        id="shards-mixed",
        level="error",
        anchor="Detected some but not all shards of ",
        pattern=r"Detected some but not all shards of (?P<layer>\S+) are quantized",
        title="Only a part of {layer} is quantized; vLLM joins its parts into one matrix",
        do=(
            "Quantize all of q/k/v_proj (or gate/up_proj) of a block, or leave all of them at 16 "
            "bits: salient quantize SOURCE --skip '*q_proj' --skip '*k_proj' --skip '*v_proj'",
        ),
        rank=11,
        example="ValueError: Detected some but not all shards of model.layers.0.self_attn.qkv_proj "
        "are quantized. All shards of fused layers to have the same precision.",
    ),
    Signature(
        id="tensor-shape",
        level="error",
        anchor=".shape == loaded_weight.shape",
        pattern=r"assert [\w.]+\.shape == loaded_weight\.shape",
        title="A tensor has another shape than config.json says: group_size or bits may be wrong",
        certainty="likely",
        matters="vLLM says only `AssertionError`. A group_size in config.json that is larger than "
        "the tensors' own gives exactly this.",
        do=GROUP_SIZE,
        rank=11,
        example="assert param_data.shape == loaded_weight.shape",
    ),
    Signature(
        id="tensor-narrow",
        level="error",
        anchor="exceeds dimension size (",
        pattern=r"start \((?P<start>\d+)\) \+ length \((?P<length>\d+)\) exceeds dimension size "
        r"\((?P<size>\d+)\)",
        title="A tensor is smaller than config.json says ({size}, not {length}): group_size or "
        "bits may be wrong",
        certainty="likely",
        matters="A group_size in config.json that is smaller than the tensors' own gives this.",
        do=GROUP_SIZE,
        rank=11,
        example="RuntimeError: start (0) + length (48) exceeds dimension size (24).",
    ),
    Signature(
        id="weight-shape",
        level="error",
        anchor="Attempted to load weight (",
        pattern=r"Attempted to load weight \(torch\.Size\((?P<has>.*?)\)\) into parameter "
        r"\(torch\.Size\((?P<wants>.*?)\)\)",
        title="A tensor of shape {has} does not fit the model, which has {wants}",
        do=("Check that config.json belongs to these weights.", CHECK),
        rank=11,
        example="AssertionError: Attempted to load weight (torch.Size([1024, 512])) into parameter "
        "(torch.Size([1024, 4096]))",
    ),
    Signature(
        id="not-convert-substring",
        level="error",
        anchor="ParallelLinear' object has no attribute 'data'",
        pattern=r"'(?P<kind>\w+ParallelLinear)' object has no attribute 'data'",
        title="modules_to_not_convert names more than it should: a quantized layer was left plain",
        certainty="likely",
        matters="vLLM looks for each word anywhere in a layer's name: `mlp.gate` is found in "
        "`mlp.gate_up_proj` too.",
        do=(
            "Write full names, of the layers that have the module only: "
            "model.layers.1.mlp.gate instead of mlp.gate",
        ),
        rank=11,
        example="AttributeError: 'MergedColumnParallelLinear' object has no attribute 'data'",
    ),
)
