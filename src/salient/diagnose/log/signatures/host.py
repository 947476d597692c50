"""Lines about the host: its main memory, shared memory, limits, and what a CPU server wants.

Texts of vLLM 0.32 from v1/worker/cpu_worker.py, v1/executor/ and platforms/cpu.py; of older
versions from config.py; of the Linux kernel, Ray and PyTorch.
"""

from salient.diagnose.log.signature import BEFORE, Signature

PRELOAD = "https://docs.vllm.ai/en/latest/getting_started/installation/cpu/"

HOST = (
    Signature(
        id="memory-taken-cpu",
        level="error",
        anchor="Available memory on node ",
        pattern=r"Available memory on node (?P<node>\d+) \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB"
        r"\) on (?P<when>startup|kv cache allocation) +is less than",
        title="The CPU has {free} of {total} GiB free, less than vLLM was told to take",
        do=(
            "Lower --gpu-memory-utilization (on a CPU it is the part of main memory), such as 0.4,",
            "or set VLLM_CPU_KVCACHE_SPACE to fewer GiB.",
        ),
        rank=10,
        example="ValueError: Available memory on node 0 (12.10/31.20 GiB) on startup is less than "
        "desired CPU memory utilization (0.9, 28.08 GiB).",
    ),
    Signature(
        id="swap-too-large",
        level="error",
        anchor=" GiB total CPU memory is allocated for the swap space",
        pattern=r"Too large swap space\. (?P<asked>[\d.]+) GiB out of the (?P<total>[\d.]+) GiB",
        title="--swap-space takes {asked} of {total} GiB of main memory",
        do=("Lower --swap-space: 0 is fine, vLLM's V1 engine does not swap.",),
        rank=10,
        versions="up to 0.10",
        example="ValueError: Too large swap space. 8.00 GiB out of the 7.74 GiB total CPU memory "
        "is allocated for the swap space.",
    ),
    Signature(
        id="swap-large",
        level="warning",
        anchor=" GiB total CPU memory is allocated for the swap space",
        pattern=r"Possibly too large swap space\. (?P<asked>[\d.]+) GiB out of the "
        r"(?P<total>[\d.]+) GiB",
        title="--swap-space takes {asked} of {total} GiB of main memory",
        do=("Lower --swap-space: 0 is fine, vLLM's V1 engine does not swap.",),
        versions="up to 0.10",
        example="Possibly too large swap space. 4.00 GiB out of the 7.74 GiB total CPU memory is "
        "allocated for the swap space.",
    ),
    Signature(
        id="host-killed",
        level="error",
        anchor="xit code: -9",
        pattern=r"(?:Worker (?:proc )?(?P<process>\S+)|Process \S+).*exit code: -9\b",
        title="A process was killed from outside: most likely main memory ran out",
        certainty="likely",
        matters="-9 is SIGKILL; the kernel sends it when memory is full, a container when its "
        "limit is reached.",
        do=(
            "Look: dmesg | grep -i 'killed process', or kubectl describe pod (OOMKilled).",
            "Give the container more memory; loading needs about the largest shard per process.",
            "Keep shared memory in mind: docker run --ipc=host, or --shm-size 16g.",
        ),
        rank=15,
        example="Worker VllmWorkerProcess pid 118 died, exit code: -9",
    ),
    Signature(
        id="host-killed-frontend",
        level="error",
        anchor="died with exit code -9",
        pattern=r"Process (?P<process>\S+) \(PID: \d+\) died with exit code -9\b",
        title="{process} was killed from outside: most likely main memory ran out",
        certainty="likely",
        do=("Look: dmesg | grep -i 'killed process', or kubectl describe pod (OOMKilled).",),
        rank=15,
        example="RuntimeError: Process ApiServer_0 (PID: 4711) died with exit code -9",
    ),
    Signature(
        id="host-killed-kernel",
        level="error",
        anchor="ut of memory: Killed process ",
        pattern=r"(?:[^'\"]*kernel: |\[ *[\d.]+\] )?(?:Memory cgroup o|O)ut of memory: Killed "
        r"process \d+ \((?P<process>[^)]*)\)",
        title="The kernel killed {process}: main memory ran out",
        do=("Give the machine or container more main memory, or load a smaller model.",),
        rank=9,
        example="Out of memory: Killed process 4711 (VLLM::EngineCor) total-vm:91234567kB",
    ),
    Signature(
        id="host-killed-ray",
        level="error",
        anchor="killed due to memory pressure (OOM)",
        pattern=BEFORE + r"\b(?P<number>[1-9]\d*) Workers \(tasks / actors\) killed due to memory "
        r"pressure",
        title="Ray killed {number} workers: a node's main memory ran out",
        do=("Give the nodes more main memory, or set RAY_memory_usage_threshold=0.99.",),
        rank=9,
        example="(raylet) node_manager.cc:3040: 1 Workers (tasks / actors) killed due to memory "
        "pressure (OOM), 0 Workers crashed due to other reasons at node",
    ),
    Signature(
        id="shared-memory",
        level="error",
        anchor="insufficient shared memory (shm)",
        pattern=BEFORE + r"insufficient shared memory \(shm\)",
        title="The container's shared memory is too small",
        do=(
            "docker run --ipc=host ..., or --shm-size 16g; on Kubernetes mount an emptyDir with "
            "medium: Memory at /dev/shm.",
        ),
        rank=9,
        example="ERROR: Unexpected bus error encountered in worker. This might be caused by "
        "insufficient shared memory (shm).",
    ),
    Signature(
        id="illegal-instruction",
        level="error",
        anchor="Illegal instruction",
        pattern=r"(?:[^'\"]*: )?Illegal instruction(?: +\(core dumped\)|: 4)",
        title="The CPU lacks instructions that vLLM was built with, such as AVX-512",
        certainty="likely",
        do=(
            "lscpu | grep -o 'avx512[^ ]*'. Without it: build vLLM on this machine, or serve a "
            "GGUF with llama.cpp.",
        ),
        rank=9,
        example="Illegal instruction (core dumped)",
    ),
    Signature(
        id="open-files",
        level="error",
        anchor="[Errno 24] Too many open files",
        title="The limit of open files is too low",
        do=("ulimit -n 65535 before the server starts; docker run --ulimit nofile=65535",),
        rank=15,
        example="OSError: [Errno 24] Too many open files",
    ),
    Signature(
        id="cache-cpu-default",
        level="note",
        anchor="Environment variable VLLM_CPU_KVCACHE_SPACE",
        pattern=r"Environment variable VLLM_CPU_KVCACHE_SPACE \(Gi?B\) for CPU backend is not set, "
        r"using (?P<size>\d+) by default",
        title="On the CPU the key-value cache has {size} GiB, because nothing else was said",
        do=("Set VLLM_CPU_KVCACHE_SPACE to the GiB that you can spare.",),
        example="Environment variable VLLM_CPU_KVCACHE_SPACE (GiB) for CPU backend is not set, "
        "using 4 by default.",
    ),
    Signature(
        id="preload",
        level="note",
        anchor=" is not found in LD_PRELOAD.",
        pattern=r"(?P<library>\S+) is not found in LD_PRELOAD",
        title="{library} is not preloaded: a CPU server is faster with it",
        do=(
            "find / -name '{library}*.so*', then LD_PRELOAD=THAT_FILE vllm serve ... See "
            + PRELOAD,
        ),
        rank=60,
        example="libtcmalloc is not found in LD_PRELOAD. For best performance, please follow the "
        "section `set LD_PRELOAD` in https://docs.vllm.ai/en/latest/getting_started/installation/"
        "cpu/ to setup required pre-loaded libraries.",
    ),
    Signature(
        id="triton-none",
        level="note",
        anchor="Triton is not installed. triton-cpu is expected on x86 CPUs.",
        title="Triton is not installed; on a CPU that is normal",
        do=("Nothing: the 4-bit kernel of the CPU does not need it.",),
        rank=90,
        example="Triton is not installed. triton-cpu is expected on x86 CPUs.",
    ),
    Signature(
        id="model-runner-v1",
        level="note",
        anchor="Model Runner V2 requires Triton; using the V1 model runner instead.",
        title="Without Triton vLLM uses its older model runner; on a CPU that is normal",
        do=("Nothing on a CPU. On a GPU: pip install triton",),
        rank=91,
        example="Model Runner V2 requires Triton; using the V1 model runner instead.",
    ),
)
