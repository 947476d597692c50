"""Lines of a server that starts or runs: version, cache, graphs, attention, types, requests.

Texts of vLLM 0.32 from v1/engine/, config/model.py and platforms/; of older versions from
attention/selector.py and worker/.
"""

from salient.diagnose.log.signature import Signature

SERVING = (
    Signature(
        id="version",
        level="good",
        anchor="LLM engine (v",
        pattern=r"Initializing an? [\w ]*LLM engine \(v(?P<number>[^)]+)\) with config",
        title="vLLM {number}",
        example="Initializing a V1 LLM engine (v0.32.0) with config: model='a', seed=0",
        rank=10,
    ),
    Signature(
        id="cache-size",
        level="good",
        anchor="KV cache size: ",
        pattern=r"(?P<device>[A-Z]+) KV cache size: (?P<tokens>[\d,]+) tokens",
        title="The key-value cache holds {tokens} tokens",
        example="GPU KV cache size: 46,592 tokens, Maximum concurrency for 512 tokens per request: "
        "91.00x",
        companions=("concurrency",),
        rank=40,
    ),
    Signature(
        id="cache-memory",
        level="good",
        anchor="Available KV cache memory: ",
        pattern=r"Available KV cache memory: (?P<gib>-?[\d.]+) GiB",
        title="{gib} GiB a GPU remain for the key-value cache",
        example="Available KV cache memory: 11.03 GiB",
        rank=43,
    ),
    Signature(
        id="cache-memory-cpu",
        level="good",
        anchor=" GiB for KV cache on node ",
        pattern=r"(?:Explicitly|Auto) set \((?P<gib>[\d.]+)/(?P<total>[\d.]+)\) GiB for KV cache",
        title="{gib} of {total} GiB of main memory are kept for the key-value cache",
        example="Explicitly set (1.0/15.21) GiB for KV cache on node 0.",
        rank=43,
    ),
    Signature(
        id="cache-blocks",
        level="good",
        anchor=", # CPU blocks: ",
        pattern=r"# (?P<device>\w+) blocks: (?P<blocks>\d+), # CPU blocks: \d+",
        title="The key-value cache has {blocks} blocks, of 16 tokens unless --block-size says else",
        example="# GPU blocks: 27896, # CPU blocks: 2048",
        rank=40,
        versions="up to 0.10 (V0)",
    ),
    Signature(
        id="memory-budget",
        level="good",
        anchor="GiB; non_torch_memory takes ",
        pattern=r"model weights take (?P<weights>[\d.]+)GiB; non_torch_memory takes "
        r"(?P<other>[\d.]+)GiB; PyTorch activation peak memory takes (?P<peak>[\d.]+)GiB; the rest "
        r"of the memory reserved for KV Cache is (?P<cache>[\d.]+)GiB",
        title="Memory: weights {weights} GiB, activations {peak}, other {other}, cache {cache}",
        example="model weights take 5.20GiB; non_torch_memory takes 0.06GiB; PyTorch activation "
        "peak memory takes 1.40GiB; the rest of the memory reserved for KV Cache is 13.52GiB.",
        rank=42,
        versions="0.6 to 0.10 (V0)",
    ),
    Signature(
        id="graphs",
        level="good",
        anchor="Graph capturing finished in ",
        pattern=r"Graph capturing finished in (?P<seconds>[\d.]+) secs?, took (?P<gib>[\d.]+) GiB",
        title="CUDA graphs were captured ({gib} GiB)",
        example="Graph capturing finished in 25 secs, took 2.37 GiB",
        rank=45,
    ),
    Signature(
        id="weights-memory",
        level="good",
        anchor="Model loading took ",
        pattern=r"Model loading took (?P<gib>[\d.]+) Gi?B",
        title="The weights take {gib} GiB a GPU",
        example="Model loading took 5.3742 GiB and 12.345678 seconds",
        rank=42,
    ),
    Signature(
        id="attention-fallback",
        level="warning",
        anchor="Cannot use FlashAttention",
        pattern=r"Cannot use FlashAttention(?:-2)? backend (?P<why>.+)",
        title="FlashAttention is not used {why}",
        matters="vLLM falls back to a slower kernel (xFormers or PyTorch); it tells most on long "
        "prompts.",
        do=(
            "On compute capability 7.5 or older there is no FlashAttention: nothing to do.",
            "Where the package is missing: pip install vllm-flash-attn, or upgrade vLLM.",
            "With an 8-bit key-value cache: VLLM_ATTENTION_BACKEND=FLASHINFER",
        ),
        rank=40,
        versions="up to 0.10",
        example="Cannot use FlashAttention-2 backend for Volta and Turing GPUs.",
    ),
    Signature(
        id="attention-xformers",
        level="note",
        anchor="Using XFormers backend",
        title="Attention runs through xFormers, not FlashAttention",
        do=("See why in the line above it; it was the fallback up to vLLM 0.10.",),
        rank=60,
        versions="up to 0.10",
        example="Using XFormers backend.",
    ),
    Signature(
        id="engine-v0",
        level="warning",
        anchor=" is not supported by the V1 Engine. Falling back to V0.",
        pattern=r"(?P<what>.+) is not supported by the V1 Engine\. Falling back to V0\.",
        title="The slower V0 engine runs, because of {what}",
        do=("Drop {what}, or upgrade vLLM.",),
        rank=40,
        versions="0.8 to 0.10",
        example="--preemption-mode is not supported by the V1 Engine. Falling back to V0.",
    ),
    Signature(
        id="variable-unknown",
        level="warning",
        anchor="Unknown vLLM environment variable detected: ",
        pattern=r"Unknown vLLM environment variable detected: (?P<name>\w+)",
        title="{name} is set, but this vLLM does not know it: it has no effect",
        do=(
            "Check its spelling, or unset {name}",
            "On Kubernetes a Service called vllm makes such names: give the Service another one.",
        ),
        example="Unknown vLLM environment variable detected: VLLM_USE_TRITON_FLASH_ATN",
    ),
    Signature(
        id="flashinfer-sampling",
        level="note",
        anchor="FlashInfer is not available. Falling back to the PyTorch-native",
        title="Sampling with top-p and top-k runs in plain PyTorch",
        do=("pip install flashinfer-python, if many requests sample with top-p or top-k.",),
        rank=60,
        versions="0.8 to 0.10",
        example="FlashInfer is not available. Falling back to the PyTorch-native implementation of "
        "top-p & top-k sampling. For the best performance, please install FlashInfer.",
    ),
    Signature(
        id="fp8-emulated",
        level="note",
        anchor="Your GPU does not have native support for FP8 computation",
        title="FP8 weights are stored in 8 bits and multiplied in 16",
        do=("A 4-bit checkpoint reads half the bytes: salient quantize SOURCE",),
        rank=50,
        example="Your GPU does not have native support for FP8 computation but FP8 quantization is "
        "being used. Weight-only FP8 compression will be used leveraging the Marlin kernel.",
    ),
    Signature(
        id="dtype-cast",
        level="note",
        anchor="Casting torch.",
        pattern=r"Casting torch\.(?P<old>\w+) to torch\.(?P<new>\w+)\.",
        title="The model was stored in {old} and runs in {new}",
        matters="bfloat16 has three bits of precision less than float16: AWQ scales round again.",
        do=("Serve with --dtype {old}, unless its values overflow there.",),
        rank=70,
        example="Casting torch.float16 to torch.bfloat16.",
    ),
    Signature(
        id="dtype-upcast",
        level="note",
        anchor="Upcasting torch.",
        pattern=r"Upcasting torch\.(?P<old>\w+) to torch\.(?P<new>\w+)\.",
        title="--dtype makes {new} of a model stored in {old}",
        do=("Serve with --dtype {old}: AWQ kernels do not take float32.",),
        rank=70,
        example="Upcasting torch.float16 to torch.float32.",
    ),
    Signature(
        id="dtype-per-tensor",
        level="note",
        anchor="Attempted to load weight ",
        pattern=r"Attempted to load weight \S+ with dtype (?P<old>[\w.]+) into parameter with "
        r"dtype (?P<new>[\w.]+)",
        title="Tensors stored in {old} are loaded as {new}: one line a tensor, harmless",
        do=("To be rid of it serve in the checkpoint's own type.",),
        rank=92,
        example="Attempted to load weight layers.0.mlp.down_proj.scales with dtype torch.float16 "
        "into parameter with dtype torch.bfloat16",
    ),
    Signature(
        id="bfloat16-old-gpu",
        level="error",
        anchor="Bfloat16 is only supported on GPUs with compute capability of at least",
        title="The GPU is too old for bfloat16",
        do=("Serve with --dtype half.",),
        rank=10,
        example="ValueError: Bfloat16 is only supported on GPUs with compute capability of at "
        "least 8.0. Your Tesla T4 GPU has compute capability 7.5.",
    ),
    Signature(
        id="float16-unstable",
        level="error",
        anchor=" does not support float16. Reason: ",
        pattern=r"The model type '(?P<kind>[^']+)' does not support float16\. Reason: (?P<why>.+)",
        title="{kind} overflows in float16",
        do=("Serve with --dtype bfloat16.",),
        rank=10,
        example="ValueError: The model type 'gemma2' does not support float16. Reason: Numerical "
        "instability. Please use bfloat16 or float32 instead.",
    ),
    Signature(
        id="speculative-vocabulary",
        level="error",
        anchor="Draft model vocab_size=",
        pattern=r"Target and draft model should have the same vocabulary size\.",
        title="The draft model has another vocabulary than the model",
        do=("Take a draft model of the same family, or drop --speculative-config.",),
        rank=10,
        example="ValueError: Target and draft model should have the same vocabulary size. Target "
        "model vocab_size=152064. Draft model vocab_size=151936.",
    ),
    Signature(
        id="prompt-too-long",
        level="warning",
        anchor=" longer than the maximum model length of ",
        pattern=r"The \w+ prompt \(length (?P<tokens>\d+)\) .*longer than the maximum model length "
        r"of (?P<most>\d+)",
        title="A request was refused: {tokens} tokens, at most {most}",
        do=("Shorten the prompt, or raise --max-model-len above {tokens} if the cache allows.",),
        example="vllm.exceptions.VLLMValidationError: The decoder prompt (length 9000) is longer "
        "than the maximum model length of 8192.",
    ),
    Signature(
        id="prompt-too-long-api",
        level="warning",
        anchor="This model's maximum context length is ",
        pattern=r"This model's maximum context length is (?P<most>\d+) tokens\. However",
        title="A request was refused: with its answer it is longer than {most} tokens",
        do=("Lower max_tokens of the request, or raise --max-model-len.",),
        example="ValueError: This model's maximum context length is 8192 tokens. However, you "
        "requested 9000 tokens (8000 in the messages, 1000 in the completion).",
    ),
)
