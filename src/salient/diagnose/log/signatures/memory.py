"""Lines about memory: weights that do not fit, a key-value cache that is too small, a killed host.

Texts of vLLM 0.32 from v1/core/kv_cache_utils.py, v1/worker/ and config/; of older versions from
executor/executor_base.py, core/scheduler.py and worker/worker.py; of PyTorch, Ray and SGLang.
"""

from salient.diagnose.log.signature import Signature

MORE_CACHE = (
    "Lower --max-model-len to what your requests need (now {context}).",
    "Raise --gpu-memory-utilization (now {utilization}, up to about 0.95) if nothing else is on "
    "the GPU.",
    "Halve the cache: --kv-cache-dtype fp8 (compute capability 8.9 or newer).",
    "Or add GPUs: --tensor-parallel-size 2",
)
LESS_AT_ONCE = (
    "Lower --gpu-memory-utilization (now {utilization}) by 0.05: it is what vLLM takes in all, and "
    "activations and CUDA graphs may pass it.",
    "Lower --max-num-seqs (256 -> 64) and --max-num-batched-tokens (-> 2048).",
    "Set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True against fragments.",
)

MEMORY = (
    Signature(
        id="out-of-memory",
        level="error",
        anchor=" out of memory. Tried to allocate ",
        pattern=r"(?P<device>CUDA|HIP|XPU) out of memory\. Tried to allocate (?P<wanted>[\d.]+ "
        r"\w+)\.?(?:.*?total capac\w+ of (?P<total>[\d.]+ \w+) of which (?P<free>[\d.]+ \w+) is "
        r"free)?",
        title="The GPU's memory is full: {wanted} more were asked for",
        matters="In all: {total}; free: {free}.",
        do=(
            "Look whether another process holds memory: nvidia-smi (or rocm-smi).",
            *LESS_AT_ONCE,
            "If it happened while weights were loaded: a smaller or 4-bit model, or "
            "--tensor-parallel-size 2.",
        ),
        rank=10,
        example="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB. GPU 0 "
        "has a total capacity of 23.64 GiB of which 583.31 MiB is free. Process 2105 has 23.06 GiB "
        "memory in use.",
    ),
    Signature(
        id="out-of-memory-cuda",
        level="error",
        anchor="CUDA error: out of memory",
        title="The GPU's memory is full",
        do=("Look whether another process holds memory: nvidia-smi", *LESS_AT_ONCE),
        rank=10,
        example="RuntimeError: CUDA error: out of memory",
    ),
    Signature(
        id="out-of-memory-warmup",
        level="error",
        anchor=" out of memory occurred when warming up ",
        pattern=r"CUDA out of memory occurred when warming up (?P<what>\w+).*? with "
        r"(?P<requests>\d+) dummy requests",
        title="The GPU's memory is full with {requests} requests at once",
        do=("Lower --max-num-seqs below {requests}.", LESS_AT_ONCE[0]),
        rank=9,
        example="RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy "
        "requests. Please try lowering `max_num_seqs` or `gpu_memory_utilization` when "
        "initializing the engine.",
    ),
    Signature(
        id="out-of-memory-loading",
        level="error",
        anchor="Failed to load model - not enough GPU memory.",
        title="The weights do not fit in the GPU's memory",
        do=(
            "Serve a 4-bit checkpoint: salient quantize {model}",
            "Or spread it: --tensor-parallel-size 2",
            "Look whether another process holds memory: nvidia-smi",
        ),
        rank=9,
        companions=("out-of-memory",),
        example="Failed to load model - not enough GPU memory. Try lowering "
        "--gpu-memory-utilization to free memory for weights, increasing --tensor-parallel-size, "
        "or using --quantization.",
    ),
    Signature(
        id="graph-capture-failed",
        level="error",
        anchor="gpu_model_runner.py",
        pattern=r'File ".*", line \d+, in capture_model$',
        title="It failed while CUDA graphs were captured",
        certainty="likely",
        matters="Graphs take memory beside what --gpu-memory-utilization counted before vLLM 0.21.",
        do=(
            LESS_AT_ONCE[0],
            "Capture fewer sizes: --max-num-seqs 64",
            "To see whether graphs are the cause: --enforce-eager (slower; do not keep it).",
        ),
        rank=20,
        example='File "/usr/vllm/v1/worker/gpu_model_runner.py", line 2381, in capture_model',
    ),
    Signature(
        id="cache-none",
        level="error",
        anchor="No available memory for the cache blocks.",
        title="Weights and activations leave no memory for the key-value cache",
        do=(
            "Raise --gpu-memory-utilization (now {utilization}) if the GPU is otherwise free.",
            "Lower --max-num-batched-tokens and --max-num-seqs: activations take less.",
            "Serve a 4-bit checkpoint (salient quantize {model}) or --tensor-parallel-size 2.",
        ),
        rank=10,
        example="ValueError: No available memory for the cache blocks. Try increasing "
        "`gpu_memory_utilization` when initializing the engine.",
    ),
    Signature(
        id="cache-short",
        level="error",
        anchor="To serve at least one request with the model's max seq len",
        pattern=r"To serve at least one request with the model's max seq len \((?P<length>\d+)\),? "
        r"\(?(?P<needed>[\d.]+) GiB KV cache is needed, which is larger than the available KV "
        r"cache memory \((?P<has>[\d.]+) GiB\)(?:.*?estimated maximum model length is "
        r"(?P<fits>\d+))?",
        title="One request of {length} tokens needs {needed} GiB of key-value cache; {has} GiB "
        "remain",
        do=("Lower --max-model-len; what fits, by vLLM's estimate: {fits}", *MORE_CACHE[1:]),
        rank=10,
        example="ValueError: To serve at least one request with the model's max seq len (131072), "
        "(16.00 GiB KV cache is needed, which is larger than the available KV cache memory (4.27 "
        "GiB). Based on the available memory, the estimated maximum model length is 34960. Try "
        "increasing `gpu_memory_utilization`",
    ),
    Signature(
        id="cache-short-old",
        level="error",
        anchor="is larger than the maximum number of tokens that can be stored in KV cache (",
        pattern=r"The model's max seq len \((?P<length>\d+)\) is larger than the maximum number of "
        r"tokens that can be stored in KV cache \((?P<fits>\d+)\)",
        title="One request of {length} tokens does not fit: the key-value cache holds {fits}",
        do=("Serve with --max-model-len {fits} or less.", *MORE_CACHE[1:]),
        rank=10,
        versions="up to 0.8",
        example="ValueError: The model's max seq len (32768) is larger than the maximum number of "
        "tokens that can be stored in KV cache (24192). Try increasing `gpu_memory_utilization` or "
        "decreasing `max_model_len` when initializing the engine.",
    ),
    Signature(
        id="cache-autofit",
        level="error",
        anchor="Cannot auto-fit max_model_len: ",
        title="Not even one token's key-value cache fits beside the weights",
        do=("Serve a 4-bit checkpoint, or --tensor-parallel-size 2.", MORE_CACHE[1]),
        rank=10,
        example="ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to "
        "serve even a single token. Try increasing `gpu_memory_utilization`.",
    ),
    Signature(
        id="memory-taken",
        level="error",
        anchor="Free memory on device ",
        pattern=r"Free memory on device (?:\S+ )?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on "
        r"startup is less than desired GPU memory utilization \((?P<part>[\d.]+), "
        r"(?P<wanted>[\d.]+) GiB\)",
        title="Only {free} of {total} GiB are free, and --gpu-memory-utilization {part} wants "
        "{wanted}",
        matters="Another process holds the rest; often an earlier server that did not end.",
        do=(
            "Find it with nvidia-smi, and end it if it is yours.",
            "Or lower --gpu-memory-utilization below {free} / {total}.",
        ),
        rank=10,
        example="ValueError: Free memory on device (6.9/8.0 GiB) on startup is less than desired "
        "GPU memory utilization (0.9, 7.2 GiB). Decrease GPU memory utilization or reduce GPU "
        "memory used by other processes.",
    ),
    Signature(
        id="memory-sglang",
        level="error",
        anchor="Not enough memory. Please try to increase --mem-fraction-static",
        title="SGLang's weights leave no memory for the key-value cache",
        do=("Raise --mem-fraction-static, lower --context-length, or add --tp 2.",),
        rank=10,
        example="RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. "
        "Current value: self.server_args.mem_fraction_static=0.7",
    ),
    Signature(
        id="context-too-long",
        level="error",
        anchor="User-specified max_model_len (",
        pattern=r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived "
        r"max_model_len \(\w+=(?P<most>[\d.]+)",
        title="--max-model-len {asked} is more than the model was made for ({most})",
        do=("Serve with --max-model-len {most}, or configure its RoPE scaling.",),
        rank=10,
        example="Value error, User-specified max_model_len (65536) is greater than the derived "
        "max_model_len (max_position_embeddings=32768 or model_max_length=None in model's "
        "config.json).",
    ),
    Signature(
        id="batched-tokens",
        level="error",
        anchor="max_num_batched_tokens (",
        pattern=r"max_num_batched_tokens \((?P<tokens>\d+)\) is smaller than max_model_len "
        r"\((?P<length>\d+)\)",
        title="--max-num-batched-tokens {tokens} is less than --max-model-len {length}",
        do=("Set --max-num-batched-tokens {length}, or --enable-chunked-prefill.",),
        rank=10,
        example="Value error, max_num_batched_tokens (2048) is smaller than max_model_len (32768). "
        "This effectively limits the maximum sequence length to max_num_batched_tokens",
    ),
    Signature(
        id="preempted",
        level="slow",
        anchor=" is preempted by PreemptionMode.",
        pattern=r"Sequence group \S+ is preempted by PreemptionMode\.(?P<mode>\w+) mode because "
        r"there is not enough KV cache space",
        title="Requests are stopped and computed again: the key-value cache is too small",
        matters="A preempted request's tokens are computed twice ({mode}).",
        do=(*MORE_CACHE, "Or let fewer run at once: --max-num-seqs"),
        rank=30,
        versions="up to 0.10 (V0)",
        example="Sequence group 221 is preempted by PreemptionMode.RECOMPUTE mode because there is "
        "not enough KV cache space. This can affect the end-to-end performance.",
    ),
    Signature(
        id="retracted",
        level="slow",
        anchor="KV cache pool is full. Retract requests.",
        title="Requests are stopped and computed again: SGLang's key-value cache is too small",
        do=("Raise --mem-fraction-static, or lower --max-running-requests.",),
        rank=30,
        example="KV cache pool is full. Retract requests. #retracted_reqs: 8, #new_token_ratio: "
        "0.1043 -> 0.4312",
    ),
    Signature(
        id="graph-memory-counted",
        level="note",
        anchor="CUDA graph memory profiling is enabled",
        pattern=r"CUDA graph memory profiling is enabled \([^)]*\)\.(?: This will [^-]*)? The "
        r"current --gpu-memory-utilization=(?P<now>[\d.]+) is equivalent to "
        r"--gpu-memory-utilization=(?P<before>[\d.]+) without",
        title="--gpu-memory-utilization {now} leaves the key-value cache what {before} left before",
        matters="Since vLLM 0.21 the memory of CUDA graphs is counted in.",
        do=("Raise --gpu-memory-utilization by the difference to have the old cache.",),
        rank=70,
        example="CUDA graph memory profiling is enabled (default since v0.21.0). The current "
        "--gpu-memory-utilization=0.9000 is equivalent to --gpu-memory-utilization=0.8771 without "
        "CUDA graph memory profiling.",
    ),
    Signature(
        id="graph-memory-not-counted",
        level="warning",
        anchor="CUDA graph memory profiling is disabled",
        title="The memory of CUDA graphs is not counted: it may run out while they are captured",
        do=("unset VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS",),
        rank=60,
        example="CUDA graph memory profiling is disabled "
        "(VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0).",
    ),
    Signature(
        id="cache-scale",
        level="note",
        anchor="Using KV cache scaling factor 1.0 for fp8_e4m3",
        title="The 8-bit key-value cache has no scales: long answers may lose some accuracy",
        do=("Compare answers with --kv-cache-dtype auto before you ship it.",),
        example="Using KV cache scaling factor 1.0 for fp8_e4m3. If this is unintended, verify "
        "that k/v_scale scaling factors are properly set in the checkpoint.",
    ),
)
