"""What a machine is, as far as an engine cares: GPUs, packages, variables, CPU, memory, limits."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class GpuInfo:
    """A GPU as its vendor's tool shows it; what the tool does not tell is 0 or "".

    memory, used: MiB; capability: 89 for 8.9; power: its limit in watts
    throttle: bits of nvidia-smi's clocks_throttle_reasons; width, generation: of its PCIe link now
    """

    name: str
    vendor: str
    memory: float = 0
    used: float = 0
    driver: str = ""
    capability: int = 0
    gfx: str = ""
    power: float = 0
    throttle: int = 0
    generation: int = 0
    width: int = 0


@dataclass(frozen=True)
class ToolError:
    """A tool that did not answer: its name, and its words."""

    tool: str
    words: str


@dataclass(frozen=True)
class Environment:
    """All of it.

    cuda: the newest CUDA that the driver runs, "12.4"; drivers: vendors whose kernel driver is up
    packages: version by name; needs: (package, what it requires), as its metadata words it
    variables: those that matter, secrets hidden; flags: CPU features that kernels ask for
    memory, limit, available: bytes of the machine, of the container (None: no limit), and free
    shared, shared_free: bytes of /dev/shm, None where there is none
    files, locked: the hard limits of open files and of locked bytes, None without limit
    """

    system: str = ""
    cards: tuple[GpuInfo, ...] = ()
    cuda: str = ""
    drivers: tuple[str, ...] = ()
    troubles: tuple[ToolError, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)
    needs: tuple[tuple[str, str], ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
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
    locked: int | None = None
