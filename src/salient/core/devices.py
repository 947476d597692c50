"""Computing devices: find one by its name, its free memory, the dtype that it computes in."""

import torch

from .errors import RequestError
from .system import available_memory


def find_device(name: str) -> torch.device:
    """The device called `name`; 'auto' is the first GPU, else the CPU.

    Raises RequestError if the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(
            f"Device {name!r} cannot be used ({reason}). Use --device auto, cpu, cuda, cuda:1, ..."
        ) from error
    return device


def free_memory(device: torch.device) -> int:
    """Bytes that are free on `device`: of the GPU, or of main memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


def compute_dtype(device: torch.device) -> torch.dtype:
    """The type to run blocks in: bfloat16 where the hardware multiplies it, else float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    tests = [getattr(torch.cpu, name, None) for name in names]
    return torch.bfloat16 if any(test() for test in tests if test) else torch.float32
