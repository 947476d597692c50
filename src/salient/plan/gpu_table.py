"""The device catalogue: every row, NVIDIA's first."""

from .gpu_nvidia import NVIDIA
from .gpu_others import OTHERS
from .gpus import Gpu

GPUS: tuple[Gpu, ...] = NVIDIA + OTHERS
