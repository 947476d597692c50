"""The table of signatures: what lines of an engine's log mean. The rows are in the modules here."""

from salient.diagnose.log.signature import Signature

from .cluster import CLUSTER
from .failures import FAILURES
from .host import HOST
from .install import INSTALL
from .kernels import KERNELS
from .loading import LOADING
from .memory import MEMORY
from .quantization import QUANTIZATION
from .serving import SERVING
from .tensors import TENSORS

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
