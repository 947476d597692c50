"""Lines by which vLLM refuses a quantized checkpoint before its weights are read.

Texts of vLLM 0.32 from config/model.py, config/vllm.py, auto_awq.py and distributed/utils.py; of
older versions from awq.py and marlin_utils.py.
"""

from salient.diagnose.log.signature import Signature

from .kernels import SMALLER_TP

CHECK = "Look at the files: salient doctor {model}"
QUANTIZATION = (
    Signature(
        id="no-quantization-config",
        level="error",
        anchor="Cannot find the config file for ",
        pattern=r"Cannot find the config file for (?P<method>[\w-]+)",
        title="{model} is not a quantized checkpoint, but --quantization {method} says it is",
        matters="config.json has no quantization_config, and there is no quantize_config.json or "
        "quant_config.json beside it. Often the 16-bit base model is named.",
        do=(
            "Name the quantized checkpoint. Likely names on the Hub: {model}-AWQ, {name}-AWQ of "
            "another organization; search https://huggingface.co/models?search={name}-AWQ",
            "Or make one: salient quantize {model}",
            "Or serve it in 16 bits: drop --quantization.",
        ),
        rank=10,
        example="Value error, Cannot find the config file for awq",
    ),
    Signature(
        id="many-quantization-configs",
        level="error",
        anchor="Found multiple config files for ",
        pattern=r"Found multiple config files for (?P<method>[\w-]+): (?P<files>.*)",
        title="Several files claim to say how the model is quantized: {files}",
        do=("Keep the quantization_config of config.json and delete the others.",),
        rank=10,
        example="ValueError: Found multiple config files for awq: ['a/quant_config.json', "
        "'a/quantize_config.json']",
    ),
    Signature(
        id="quantization-mismatch",
        level="error",
        anchor="Quantization method specified in the model config",
        pattern=r"Quantization method specified in the model config \((?P<there>[\w-]+)\) does not "
        r"match the quantization method specified in the `?quantization`? argument "
        r"\((?P<asked>[\w-]+)\)",
        title="The checkpoint says {there}, --quantization says {asked}",
        matters="On a CPU vLLM 0.32 takes `awq` only, not awq_marlin or auto_awq.",
        do=("Drop --quantization {asked}: vLLM reads the method from config.json.",),
        rank=10,
        example="Value error, Quantization method specified in the model config (awq) does not "
        "match the quantization method specified in the `quantization` argument (awq_marlin).",
    ),
    Signature(
        id="quantization-unknown",
        level="error",
        anchor="Unknown quantization method: ",
        pattern=r"Unknown quantization method: (?P<method>[^.]+)\.",
        title="This vLLM ({version}) does not know the quantization method {method}",
        do=("Upgrade vLLM, or correct quant_method in config.json.",),
        rank=10,
        example="ValueError: Unknown quantization method: awq_v2. Must be one of ['awq', 'fp8'].",
    ),
    Signature(
        id="quantization-field-missing",
        level="error",
        anchor=" in the model's quantization config.",
        pattern=r"Cannot find any of (?P<fields>\[.*?\]) in the model's quantization config\.",
        title="quantization_config lacks a field: one of {fields}",
        do=(
            "Add it to quantization_config in config.json; AutoAWQ writes bits 4, group_size 128, "
            "zero_point true, version gemm.",
            CHECK,
        ),
        rank=10,
        example="ValueError: Cannot find any of ['zero_point'] in the model's quantization config.",
    ),
    Signature(
        id="awq-bits",
        level="error",
        anchor="Unsupported num_bits = ",
        pattern=r"Unsupported num_bits = (?P<bits>\d+)",
        title="vLLM's AWQ takes 4 bits, the checkpoint says {bits}",
        do=(
            "Correct `bits` in config.json if the weights are 4-bit. Else quantize again: "
            "salient quantize SOURCE",
            "8-bit AWQ weights: write them as compressed-tensors.",
        ),
        rank=10,
        example="ValueError: Unsupported num_bits = 8. Supported: 4. For 8-bit AWQ, use Marlin "
        "backend by setting backend='awq:marlin' or backend='marlin'.",
    ),
    Signature(
        id="awq-bits-old",
        level="error",
        anchor="Currently, only 4-bit weight quantization is supported for AWQ",
        pattern=r"Currently, only 4-bit weight quantization is supported for AWQ, but got "
        r"(?P<bits>\d+)",
        title="vLLM's AWQ takes 4 bits, the checkpoint says {bits}",
        do=("Correct `bits` in config.json, or quantize again: salient quantize SOURCE",),
        rank=10,
        example="ValueError: Currently, only 4-bit weight quantization is supported for AWQ, but "
        "got 8 bits.",
    ),
    Signature(
        id="quantization-device",
        level="error",
        anchor=" quantization is currently not supported in ",
        pattern=r"(?P<method>[\w-]+) quantization is currently not supported in (?P<device>[\w-]+)",
        title="vLLM does not run {method} on {device}",
        do=("On ROCm and CPUs AWQ and compressed-tensors run: salient quantize SOURCE",),
        rank=10,
        example="ValueError: bitsandbytes quantization is currently not supported in rocm.",
    ),
    Signature(
        id="quantization-capability",
        level="error",
        anchor="is not supported for the current GPU. Minimum capability: ",
        pattern=r"The quantization method (?P<method>.+?) is not supported for the current GPU\. "
        r"Minimum capability: (?P<least>\d+)\. Current capability: (?P<has>-?\d+)",
        title="The GPU has compute capability {has}, {method} needs {least} (75 is 7.5)",
        matters="V100 is 70, T4 is 75, A100 is 80. -1 stands for a device without one, as a CPU.",
        do=(
            "Serve on a T4 (7.5) or newer, with vLLM 0.14 or newer for Marlin on a T4.",
            "Older GPUs: convert to GGUF and serve with llama.cpp.",
        ),
        rank=10,
        example="ValueError: The quantization method awq is not supported for the current GPU. "
        "Minimum capability: 75. Current capability: 70.",
    ),
    Signature(
        id="quantization-dtype",
        level="error",
        anchor="is not supported for quantization method ",
        pattern=r"torch\.(?P<dtype>\w+) is not supported for quantization method "
        r"(?P<method>[\w-]+)\. Supported dtypes: \[(?P<dtypes>[^\]]*)\]",
        title="{method} does not run in {dtype}",
        matters="Supported: {dtypes}.",
        do=("Serve with --dtype float16 (or bfloat16 where it is listed).",),
        rank=10,
        example="Value error, torch.float32 is not supported for quantization method awq. "
        "Supported dtypes: [torch.float16, torch.bfloat16]",
    ),
    Signature(
        id="marlin-min-thread",
        level="error",
        anchor=" is not divisible by",
        pattern=r"Weight (?P<side>(?:input|output)_size_per_partition) = (?P<size>\d+) is not "
        r"divisible by +min_thread_(?P<which>[kn]) = (?P<least>\d+)",
        title="A layer's {side} is {size}, which {least} does not divide: Marlin cannot run it",
        do=(
            "Upgrade vLLM: since 0.8 such a layer falls back alone, and 0.24 pads it.",
            *SMALLER_TP,
        ),
        rank=11,
        versions="up to 0.7",
        example="ValueError: Weight input_size_per_partition = 14784 is not divisible by "
        "min_thread_k = 128. Consider reducing tensor_parallel_size or running with --quantization "
        "gptq.",
    ),
    Signature(
        id="tensor-parallel-groups",
        level="error",
        anchor="is not divisible by group_size",
        pattern=r"Weight input_size_per_partition ?= ?(?P<size>\d+)(?: for layer "
        r"'(?P<layer>[^']*)')?,? is not divisible by group_size ?= ?(?P<group>\d+)",
        title="Tensor parallelism leaves {size} inputs a GPU: no whole number of groups of {group}",
        matters="Layer: {layer}.",
        do=SMALLER_TP,
        rank=11,
        example="ValueError: Weight input_size_per_partition=7392 for layer "
        "'model.layers.0.mlp.down_proj' is not divisible by group_size=128. This happens when "
        "tensor_parallel_size splits the layer input into shards that are not a whole number of "
        "quant groups. Consider reducing tensor_parallel_size.",
    ),
    Signature(
        id="tensor-parallel-alignment",
        level="error",
        anchor="size is not aligned with the quantized",
        pattern=r"The (?P<side>input|output) size is not aligned with the quantized weight shape",
        title="Tensor parallelism cuts a layer's {side}s inside a group",
        do=SMALLER_TP,
        rank=11,
        example="ValueError: The input size is not aligned with the quantized weight shape. This "
        "can be caused by too large tensor parallel size.",
    ),
    Signature(
        id="lora-quantized",
        level="note",
        anchor=" quantization is not tested with LoRA yet.",
        pattern=r"(?P<method>[\w-]+) quantization is not tested with LoRA yet\.",
        title="LoRA adapters over {method} weights were not tested in this version",
        do=("Compare some answers with the merged model's, or upgrade vLLM.",),
        versions="up to 0.10",
        example="awq_marlin quantization is not tested with LoRA yet.",
    ),
)
