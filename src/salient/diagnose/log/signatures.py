"""The table of signatures: what lines of an engine's log mean. The rows are in the modules here."""

from .signature import Signature
from .signatures_cluster import CLUSTER
from .signatures_failures import FAILURES
from .signatures_host import HOST
from .signatures_install import INSTALL
from .signatures_kernels import KERNELS
from .signatures_loading import LOADING
from .signatures_memory import MEMORY
from .signatures_quantization import QUANTIZATION
from .signatures_serving import SERVING
from .signatures_tensors import TENSORS

SIGNATURES: tuple[Signature, ...] = (
    *KERNELS,
    *QUANTIZATION,
    *TENSORS,
    *LOADING,
    *MEMORY,
    *CLUSTER,
    *INSTALL,
    *HOST,
    *SERVING,
    *FAILURES,
)
