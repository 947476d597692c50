"""A machine as engines see it: GPUs, packages, variables, CPU, memory, limits."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class GpuInfo:
    """A GPU by its driver; what the driver does not report is 0 or "".

    memory, used: MiB; capability: 89 for 8.9
    throttle: bits of NVML's clocks_throttle_reasons; width: lanes of its PCIe link now
    """

    name: str
    vendor: str
    memory: float = 0
    used: float = 0
    capability: int = 0
    gfx: str = ""
    throttle: int = 0
    width: int = 0


@dataclass(frozen=True)
class ToolError:
    """A tool that failed, and its message."""

    tool: str
    message: str

    @property
    def text(self) -> str:
        return f"{self.tool}: {self.message}"


@dataclass(frozen=True)
class Environment:
    """All of it.

    cuda: the newest CUDA that the driver runs, "12.4"; drivers: vendors of loaded kernel drivers
    packages: version by name; needs: (package, requirement), as in its metadata
    variables: those that matter, secrets hidden; flags: CPU features that kernels use
    memory, limit, available: bytes of the machine, of the container (None: no limit), and free
    shared, shared_free: bytes of /dev/shm, None where there is none
    files: the hard limit of open files, None without limit
    """

    cards: tuple[GpuInfo, ...] = ()
    cuda: str = ""
    drivers: tuple[str, ...] = ()
    troubles: tuple[ToolError, ...] = ()
    packages: dict[str, str] = field(default_factory=dict[str, str])
    needs: tuple[tuple[str, str], ...] = ()
    variables: dict[str, str] = field(default_factory=dict[str, str])
    cpu: str = ""
    machine: str = ""
    cores: int = 1
    flags: tuple[str, ...] = ()
    memory: int = 0
    limit: int | None = None
    available: int = 0
    shared: int | None = None
    shared_free: int | None = None
    files: int | None = None
