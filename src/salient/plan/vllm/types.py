"""Records of the kernel choice: what is served, how its weights are stored, and the answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from salient.plan.gpus import Gpu

from .versions import NEWEST, Version

Pace = Literal["fast", "slow", "refused"]
PACES: tuple[Pace, ...] = ("fast", "slow", "refused")
METHODS = (
    "awq", "compressed-tensors", "gptq", "bitsandbytes", "gguf", "fp8", "fp8_block", "modelopt_fp8",
    "int8", "nvfp4", "mxfp4", "mxfp8", "none",
)  # fmt: skip
DTYPES = ("float16", "bfloat16", "float32")
# Assumed of an NVIDIA card of unknown make: Ampere, the oldest that is common.
ASSUMED_CAPABILITY = 80
_FALSE = ("", "0", "false", "no", "off")
# Intel's server processors with AMX tiles, as people and catalogues write them
_AMX = ("amx", "sapphire rapids", "emerald rapids", "granite rapids")


@dataclass(frozen=True)
class ServingTarget:
    """How a model is served.

    tp: tensor-parallel size; version: vLLM's, (0, 32)
    dtype: of the activations, "float16", "bfloat16" or "float32"
    forced: the value of --quantization, "" if none
    environment: variables that vLLM reads, VLLM_USE_TRITON_AWQ and such
    """

    gpu: Gpu
    tp: int = 1
    version: Version = NEWEST
    dtype: str = "float16"
    forced: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def is_on(self, variable: str, default: str = "0") -> bool:
        """Whether an environment variable is set to a true value."""
        return self.environment.get(variable, default).strip().lower() not in _FALSE

    @property
    def capability(self) -> int:
        """Compute capability of an NVIDIA card, 89 for 8.9; 0 for other vendors."""
        if self.gpu.vendor != "nvidia":
            return 0
        return self.gpu.capability or ASSUMED_CAPABILITY

    @property
    def device(self) -> str:
        """The device and what decides: "RTX 4090 (compute capability 8.9)"."""
        if self.gpu.vendor == "nvidia":
            assumed = "" if self.gpu.capability else ", assumed"
            return f"{self.gpu.name} (compute capability {dotted(self.capability)}{assumed})"
        return f"{self.gpu.name} ({self.gpu.gfx})" if self.gpu.gfx else self.gpu.name

    @property
    def amx(self) -> bool:
        """Whether it is a CPU whose name or architecture is known to have AMX tiles."""
        text = f"{self.gpu.name} {self.gpu.architecture}".lower()
        return self.gpu.vendor == "cpu" and any(name in text for name in _AMX)


@dataclass(frozen=True)
class WeightPacking:
    """How the weights are stored.

    method: one of METHODS; "none" for unquantized weights
    group: inputs that share a scale, -1 for one group per column; zeros: whether it has zero points
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
    def summary(self) -> str:
        """ "4-bit AWQ codes with zero points in groups of 128"."""
        method = {"awq": "AWQ", "gptq": "GPTQ"}.get(self.method, self.method)
        zeros = "with" if self.zeros else "without"
        groups = "one group per column" if self.group == -1 else f"groups of {self.group}"
        return f"{self.bits}-bit {method} codes {zeros} zero points in {groups}"


@dataclass(frozen=True)
class Refusal:
    """A kernel that comes earlier or would be faster, and why it does not take the weights."""

    kernel: str
    why: str


@dataclass(frozen=True)
class KernelVerdict:
    """The kernel of one matrix, or of a whole model where widths do not decide.

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
    """The kernel of a model.

    kernel: "" where the engine refuses
    why: one sentence; refusals: kernels that come earlier or would be faster
    fallen: "self_attn.o_proj: 5120 inputs / 3 GPUs ..." for matrices that fall back to a slow
        kernel or stop the loading, each name and width once
    experts: the kernel of a mixture's experts, "" for a dense model
    do: what to change, one step each
    """

    kernel: str
    pace: Pace
    why: str
    refusals: tuple[Refusal, ...] = ()
    fallen: tuple[str, ...] = ()
    experts: str = ""
    do: tuple[str, ...] = ()


def dotted(capability: int) -> str:
    """ "8.9" of 89."""
    return f"{capability // 10}.{capability % 10}"


def refused(why: str, *do: str, local: bool = False) -> KernelVerdict:
    """The verdict where vLLM stops."""
    return KernelVerdict("", "refused", why, do=do, local=local)


def worst(verdicts: list[KernelVerdict]) -> KernelVerdict:
    """The first verdict of the slowest pace."""
    return max(verdicts, key=lambda verdict: PACES.index(verdict.pace))
