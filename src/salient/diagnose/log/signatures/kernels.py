"""Lines about the kernels that quantized weights run through: fast, slow, none.

Texts and rules of vLLM 0.32 from model_executor/layers/quantization/auto_awq.py and
model_executor/kernels/linear/; of older versions from awq_marlin.py and config.py there.
"""

from salient.diagnose.log.signature import Signature

FORCED = (
    "Drop `--quantization awq` from the command: vLLM then takes awq_marlin by itself.",
    "Then look for `Using awq_marlin kernel` in the new log.",
)
CONVERT = (
    "Write the checkpoint as compressed-tensors, whose kernels are chosen on ROCm too:",
    "salient quantize SOURCE --format compressed-tensors",
)
SMALLER_TP = (
    "Lower --tensor-parallel-size so that group_size divides every layer's inputs per GPU; add "
    "--pipeline-parallel-size to keep the number of GPUs.",
    "Or quantize with smaller groups: salient quantize SOURCE --scheme w4-g64 (or w4-g32)",
)

KERNELS = (
    Signature(
        id="kernel",
        level="good",
        anchor="LinearKernel for ",
        pattern=r"Using (?P<kernel>\w+LinearKernel) for (?!mixed-precision)(?P<method>\w+)",
        title="The 4-bit weights run through {kernel}",
        example="Using MarlinLinearKernel for AutoAWQMarlinLinearMethod",
    ),
    Signature(
        id="kernel-moe",
        level="good",
        anchor=" WNA16 MoE backend.",
        pattern=r"Using '(?P<kernel>[^']+)' WNA16 MoE backend\.",
        title="The 4-bit experts run through {kernel}",
        example="Using 'MARLIN' WNA16 MoE backend.",
    ),
    Signature(
        id="kernel-awq-marlin",
        level="good",
        anchor="The model is convertible to awq_marlin during runtime.",
        title="The AWQ weights run through Marlin",
        example="The model is convertible to awq_marlin during runtime. Using awq_marlin kernel.",
        versions="0.5.4 to 0.24",
    ),
    Signature(
        id="awq-forced-slow",
        level="slow",
        anchor="Detected that the model can run with awq_marlin, however",
        title="`--quantization awq` forces the slow AWQ kernel, though Marlin would run",
        matters="One user measured 23 tokens/s with the flag and 123 without it (vLLM issue "
        "#21376); Marlin was measured up to 2.59 times faster (pull request #6654).",
        do=FORCED,
        rank=5,
        versions="0.5.4 to 0.24, and SGLang",
        example="Detected that the model can run with awq_marlin, however you specified "
        "quantization=awq explicitly, so forcing awq. Use quantization=awq_marlin for faster "
        "inference",
    ),
    Signature(
        id="awq-unoptimized",
        level="slow",
        anchor="awq quantization is not fully optimized yet.",
        title="The weights run through the old AWQ kernel, not through Marlin",
        matters="It can be slower than the 16-bit model; Marlin was measured up to 2.59 times "
        "faster (vLLM pull request #6654).",
        do=(
            *FORCED,
            "Marlin needs compute capability 8.0 up to vLLM 0.13, 7.5 (a T4) since: upgrade vLLM.",
        ),
        rank=6,
        versions="up to 0.10",
        example="awq quantization is not fully optimized yet. The speed can be slower than "
        "non-quantized models.",
    ),
    Signature(
        id="quantization-unoptimized",
        level="note",
        anchor=" quantization is not fully optimized yet.",
        pattern=r"(?!awq )(?P<method>[\w-]+) quantization is not fully optimized yet\.",
        title="vLLM has no fast kernel of its own for {method} here",
        do=("Compare its speed with the 16-bit model's before you ship it.",),
        versions="up to 0.10",
        example="bitsandbytes quantization is not fully optimized yet. The speed can be slower "
        "than non-quantized models.",
    ),
    Signature(
        id="awq-layer-fallback",
        level="slow",
        anchor="AWQMarlin. Falling back to unoptimized AWQ kernels.",
        pattern=r"Layer '(?P<layer>[^']*)' is not supported by (?:Auto)?AWQMarlin\. Falling back",
        title="Marlin cannot run {layer}: it falls back to the slow AWQ kernel",
        matters="The slow kernel takes float16 only. The usual cause: tensor parallelism cuts the "
        "layer's inputs into shards that are no whole number of groups.",
        do=SMALLER_TP,
        rank=8,
        example="Layer 'model.layers.0.mlp.down_proj' is not supported by AutoAWQMarlin. Falling "
        "back to unoptimized AWQ kernels.",
    ),
    Signature(
        id="awq-moe-fallback",
        level="slow",
        anchor=" Falling back to Moe WNA16 kernels.",
        pattern=r"Layer '(?P<layer>[^']*)' is not supported by (?:Auto)?AWQMoe\w*\. Falling back",
        title="Marlin cannot run the experts of {layer}: they fall back to moe_wna16",
        matters="Marlin's experts need a hidden size that 128 divides, groups of 32, 64 or 128 "
        "that divide the experts' width per GPU, and no ROCm.",
        do=(
            *SMALLER_TP,
            "Or spread whole experts instead of cutting them: --enable-expert-parallel",
        ),
        rank=8,
        example="Layer 'model.layers.3.mlp.experts' is not supported by AWQMoeMarlin. Falling "
        "back to Moe WNA16 kernels.",
    ),
    Signature(
        id="awq-rocm-triton",
        level="slow",
        anchor="Using AWQ quantization with ROCm, but VLLM_USE_TRITON_AWQ is not set",
        title="On ROCm AWQ runs through a plain Triton kernel",
        matters="Choosing among the other kernels made a token 5.3 to 8.1 times faster on gfx1151 "
        "(vLLM pull request #55098).",
        do=CONVERT,
        rank=7,
        example="Using AWQ quantization with ROCm, but VLLM_USE_TRITON_AWQ is not set, enabling "
        "VLLM_USE_TRITON_AWQ.",
    ),
    Signature(
        id="tunable-op",
        level="note",
        anchor="Failed validator: GCN_ARCH_NAME",
        title="A tuning file of another GPU was refused: not the cause of slow AWQ",
        matters="It is PyTorch's TunableOp, which tunes 16-bit products. The AWQ kernel never uses "
        "it, and unquantized models print this line too.",
        do=(
            "For slow AWQ look at the other findings. To stop the line: rm tunableop_results*.csv, "
            "or set PYTORCH_TUNABLEOP_ENABLED=0",
        ),
        rank=95,
        example="UserWarning: Failed validator: GCN_ARCH_NAME (Triggered internally at "
        "../aten/src/ATen/hip/tunable/Tunable.cpp:366.)",
    ),
    Signature(
        id="marlin-padding",
        level="warning",
        anchor="Marlin requires thread-tile padding for some weight shapes",
        title="Marlin pads some layers, and their inputs at every step",
        matters="Marlin's tiles are 64 by 128; layers of other sizes are padded with zeros.",
        do=(
            "Lower --tensor-parallel-size, so that the layers stay wide, and compare the speed.",
            "On Hopper try --linear-backend humming.",
        ),
        example="Marlin requires thread-tile padding for some weight shapes in this model. "
        "Activations and/or outputs of the padded layers are padded/sliced on every forward; "
        "performance may be degraded.",
    ),
    Signature(
        id="marlin-moe-padding",
        level="warning",
        anchor="Marlin requires thread-tile padding for the MoE intermediate size",
        title="Marlin pads the experts, and their inputs at every step",
        do=("Lower --tensor-parallel-size, or spread whole experts: --enable-expert-parallel",),
        example="Marlin requires thread-tile padding for the MoE intermediate size of some layers "
        "in this model. Padded experts pad/slice activations on every forward; performance may be "
        "degraded.",
    ),
    Signature(
        id="linear-backend-none",
        level="warning",
        anchor=" has no kernel for this linear layer type",
        pattern=r"--linear-backend=(?P<backend>\S+) has no kernel for this linear layer type",
        title="--linear-backend {backend} has no kernel for these layers: it was not used",
        do=("Drop --linear-backend, or name one of machete, marlin, humming.",),
        example="--linear-backend=cutlass has no kernel for this linear layer type; using "
        "automatic selection for that layer type.",
    ),
    Signature(
        id="linear-backend-override",
        level="note",
        anchor="Applied linear backend override for ",
        pattern=r"Applied linear backend override for (?P<method>\S+): (?P<backend>\S+)",
        title="The kernel was chosen by hand: {backend} for {method}",
        do=("Where it is slower than expected, drop the override and compare.",),
        example="Applied linear backend override for 'mixed_precision': 'marlin'",
    ),
    Signature(
        id="no-linear-kernel",
        level="error",
        anchor="Failed to find a kernel that can implement the ",
        pattern=r"Failed to find a kernel that can implement the (?P<what>\w+) linear layer",
        title="No kernel can run these quantized layers; the lines below it say why each refused",
        do=(
            "Where a line says `disabled by environment variable`: unset VLLM_DISABLED_KERNELS.",
            "Where it names group_size or sizes per partition: lower --tensor-parallel-size.",
            "Where it says `requires capability`: the GPU is too old for it.",
        ),
        rank=12,
        example="ValueError: Failed to find a kernel that can implement the WNA16 linear layer. "
        "Reasons: ",
    ),
    Signature(
        id="kernel-disabled",
        level="warning",
        anchor="Kernel disabled by environment variable",
        pattern=r"(?P<kernel>\w+Kernel) disabled by environment variable",
        title="VLLM_DISABLED_KERNELS keeps {kernel} away",
        do=("unset VLLM_DISABLED_KERNELS",),
        rank=13,
        example=" MarlinLinearKernel disabled by environment variable",
    ),
    Signature(
        id="kernel-refused",
        level="note",
        anchor="Kernel cannot implement due to: ",
        pattern=r"(?P<kernel>\w+Kernel) cannot implement due to: (?P<why>.+)",
        title="{kernel} cannot run these layers: {why}",
        do=("Lower --tensor-parallel-size, or quantize with groups of 32, 64 or 128.",),
        rank=13,
        example=" MarlinLinearKernel cannot implement due to: Quant type (uint8) not supported",
    ),
    Signature(
        id="kernel-capability",
        level="note",
        anchor="Kernel requires capability ",
        pattern=r"(?P<kernel>\w+Kernel) requires capability (?P<least>\d+), current compute +"
        r"capability is (?P<has>\d+)",
        title="{kernel} needs compute capability {least}, the GPU has {has}",
        do=("Nothing, where another kernel is taken.",),
        rank=13,
        example="MacheteLinearKernel requires capability 90, current compute  capability is 80",
    ),
    Signature(
        id="no-moe-kernel",
        level="error",
        anchor=" MoE backend supports the deployment configuration",
        pattern=r"No (?P<what>\w+) MoE backend supports the deployment configuration",
        title="No kernel can run these quantized experts here",
        matters="On a CPU vLLM's 4-bit experts need AMX; on a GPU compute capability 7.5.",
        do=(
            "Drop --moe-backend if it was given.",
            "On a CPU without AMX serve the 16-bit model, or a GGUF of it with llama.cpp.",
        ),
        rank=12,
        example="NotImplementedError: No WNA16 MoE backend supports the deployment configuration.",
    ),
    Signature(
        id="marlin-w8a8",
        level="error",
        anchor="W8A8 is not supported by marlin kernel.",
        title="VLLM_MARLIN_INPUT_DTYPE asks for 8-bit activations, which AWQ's zeros do not allow",
        do=("unset VLLM_MARLIN_INPUT_DTYPE",),
        rank=12,
        example="AssertionError: W8A8 is not supported by marlin kernel.",
    ),
    Signature(
        id="awq-kernel-shape",
        level="error",
        anchor="OC is not multiple of ",
        pattern=r"OC is not multiple of (?P<what>.+)",
        title="The slow AWQ kernel cannot run a layer: its outputs are no multiple of {what}",
        do=SMALLER_TP,
        rank=13,
        example="ValueError: OC is not multiple of cta_N = 64",
    ),
    Signature(
        id="awq-kernel-float16",
        level="error",
        anchor="expected scalar type Half but found BFloat16",
        title="The slow AWQ kernel takes float16 only, and the model runs in bfloat16",
        certainty="likely",
        do=("Serve with --dtype float16.", "Better: find out why Marlin is not used (see above)."),
        rank=14,
        example="RuntimeError: expected scalar type Half but found BFloat16",
    ),
    Signature(
        id="moe-untuned",
        level="warning",
        anchor="MoE config. Performance might be sub-optimal!",
        pattern=r"Using default (?:\w+ )?MoE config\. Performance might be sub-optimal! "
        r"Config file not found at (?P<file>.+)",
        title="The experts' Triton kernel is not tuned for this GPU",
        matters="The kernel runs with default tiles. Marlin's experts do not need the file.",
        do=(
            "Tune once with benchmarks/kernels/benchmark_moe.py of vLLM's sources (--tune), and "
            "put the file where the line says.",
        ),
        example="Using default MoE config. Performance might be sub-optimal! Config file not found "
        "at ['/usr/vllm/configs/E=64,N=1408,device_name=NVIDIA_L4,dtype=int4_w4a16.json']",
    ),
)
