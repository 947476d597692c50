"""What is asked of the choice of a kernel, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from salient.plan.gpus import Gpu

from .versions import NEWEST, Version

Pace = Literal["fast", "slow", "refused"]
PACES: tuple[Pace, ...] = ("fast", "slow", "refused")
METHODS = ("awq", "compressed-tensors", "gptq", "bitsandbytes", "gguf", "fp8", "none")
DTYPES = ("float16", "bfloat16", "float32")
# What an NVIDIA card of unknown make is taken for: Ampere, the oldest that most people have.
ASSUMED_CAPABILITY = 80
_FALSE = ("", "0", "false", "no", "off")
# Intel's server processors with AMX tiles, as people and catalogues write them
_AMX = ("amx", "sapphire rapids", "emerald rapids", "granite rapids")


@dataclass(frozen=True)
class ServingTarget:
    """How a model would be served.

    tp: GPUs that share each matrix; version: vLLM's, (0, 32)
    dtype: of the activations, "float16", "bfloat16" or "float32"
    forced: the value of --quantization, "" if none is given
    environment: variables that vLLM reads, VLLM_USE_TRITON_AWQ and such
    """

    gpu: Gpu
    tp: int = 1
    version: Version = NEWEST
    dtype: str = "float16"
    forced: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def on(self, variable: str, default: str = "0") -> bool:
        """Whether an environment variable is set to a true value."""
        return self.environment.get(variable, default).strip().lower() not in _FALSE

    @property
    def capability(self) -> int:
        """Compute capability of an NVIDIA card, 89 for 8.9; 0 for others."""
        if self.gpu.vendor != "nvidia":
            return 0
        return self.gpu.capability or ASSUMED_CAPABILITY

    @property
    def device(self) -> str:
        """The device in words, with what decides: "RTX 4090 (compute capability 8.9)"."""
        if self.gpu.vendor == "nvidia":
            assumed = "" if self.gpu.capability else ", assumed"
            return f"{self.gpu.name} (compute capability {dotted(self.capability)}{assumed})"
        return f"{self.gpu.name} ({self.gpu.gfx})" if self.gpu.gfx else self.gpu.name

    @property
    def amx(self) -> bool:
        """Whether it is a CPU whose name or architecture is known to have AMX tiles."""
        words = f"{self.gpu.name} {self.gpu.architecture}".lower()
        return self.gpu.vendor == "cpu" and any(word in words for word in _AMX)


@dataclass(frozen=True)
class WeightPacking:
    """How the weights are stored.

    method: one of METHODS; "none" for 16-bit weights
    group: inputs that share a scale, -1 for a whole column; zeros: whether it has zero points
    act_order: whether groups follow the order of activations (GPTQ's desc_act)
    """

    method: str
    group: int = 128
    zeros: bool = True
    bits: int = 4
    act_order: bool = False

    @property
    def grouped(self) -> bool:
        """Whether its kernels are chosen by codes and groups."""
        return self.method in ("awq", "compressed-tensors", "gptq")

    @property
    def words(self) -> str:
        """ "4-bit AWQ codes with zero points in groups of 128"."""
        method = {"awq": "AWQ", "gptq": "GPTQ"}.get(self.method, self.method)
        zeros = "with" if self.zeros else "without"
        groups = "one group a column" if self.group == -1 else f"groups of {self.group}"
        return f"{self.bits}-bit {method} codes {zeros} zero points in {groups}"


@dataclass(frozen=True)
class Refusal:
    """A kernel that was asked before or would be better, and why it does not take the weights."""

    kernel: str
    why: str


@dataclass(frozen=True)
class KernelVerdict:
    """The answer for one matrix, or for a whole model before its matrices are looked at.

    local: whether `why` is about this matrix's widths
    """

    kernel: str
    pace: Pace
    why: str
    refusals: tuple[Refusal, ...] = ()
    do: tuple[str, ...] = ()
    local: bool = False


@dataclass(frozen=True)
class Route:
    """Which kernel runs a model.

    kernel: as users say it, "" where the engine refuses
    why: one sentence; refusals: the kernels that were asked before or would be better
    fallen: "self_attn.o_proj: 5120 inputs / 3 GPUs ..." for matrices that take the slow way or
        stop the loading, each name and width once
    experts: the kernel of a mixture's experts, "" for a dense model
    do: what to change, one step each
    """

    kernel: str
    pace: Pace
    why: str
    refusals: tuple[Refusal, ...]
    fallen: tuple[str, ...] = ()
    experts: str = ""
    do: tuple[str, ...] = ()


def dotted(capability: int) -> str:
    """ "8.9" of 89."""
    return f"{capability // 10}.{capability % 10}"


def refused(why: str, *do: str) -> KernelVerdict:
    """The engine stops."""
    return KernelVerdict("", "refused", why, do=do)
