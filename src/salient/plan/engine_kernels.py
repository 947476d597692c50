"""Which kernel runs a format in each engine; `vllm.route` has vLLM's rules."""

from collections.abc import Callable
from difflib import get_close_matches

from salient.plan.vllm.route import Route, ServingTarget, WeightPacking, route
from salient.plan.vllm.types import METHODS
from salient.plan.vllm.versions import ONLINE_MXFP4, release_name
from salient.shapes.model_shape import ModelShape

from .engine_options import accepts, names_of, span_text
from .engine_profiles import ENGINES
from .gpus import Gpu
from .memory import Workload
from .stored_route import stored_route
from .weight_formats import AS_STORED, WeightFormat

FP4_FROM = 100  # compute capability that multiplies 4-bit floats (CUTLASS's NVFP4 and MXFP4)
FP8_METHODS = ("fp8", "fp8_block", "modelopt_fp8", "nvfp4", "mxfp8")
BFLOAT16_FROM = 80  # compute capability (CUDA C++ Programming Guide, table of features)


def route_of(shape: ModelShape, form: WeightFormat, load: Workload) -> Route:
    """How the engine of `load` would run `shape` in `form`."""
    name = load.engine.family
    if form.ready and form.unknown:
        do = "give a folder with its safetensors, or plan the 16-bit model"
        why = f"how its weights are stored is not known: {form.unknown}"
        return Route("", "refused", why, do=(do,))
    if name not in form.engines:
        title = form.title.removesuffix(AS_STORED)
        known = [f"--engine {engine}" for engine in form.engines if engine in ENGINES]
        do = f"use {' or '.join(known)}" if known else f"{title} runs in {', '.join(form.engines)}"
        return Route("", "refused", f"{name} does not run {title}", do=(do,))
    if name != "vllm":
        return _ROUTES[name](form, load.gpu)
    if shape.architecture and (missing := _no_class(shape.architecture, load)):
        return missing
    if load.kv_dtype == "fp8_e5m2" and _has_fp8(form):
        why = "vLLM keeps no fp8_e5m2 cache next to FP8 weights"
        return Route("", "refused", why, do=("leave out --kv-dtype fp8_e5m2",))
    if form.rules:
        grouped = any(one.packing.grouped for one in form.rules.forms)
        return stored_route(shape, form.rules, _target(shape, load, grouped=grouped))
    zeros = form.method in ("awq", "compressed-tensors")
    packing = WeightPacking(form.method, form.group or -1, zeros)
    return route(shape, packing, _target(shape, load, grouped=packing.grouped))


def _has_fp8(form: WeightFormat) -> bool:
    """Whether vLLM's attention layers get the cache method of an FP8 checkpoint (attention.py)."""
    parts = [one.packing.method for one in form.rules.forms] if form.rules else []
    return any(method in FP8_METHODS for method in (form.method, *parts))


def _no_class(architecture: str, load: Workload) -> Route | None:
    """The refusal of a model that the engine's registry does not have."""
    if load.engine.name != "vllm" or accepts("vllm", architecture, load.version, "architectures"):
        return None  # of SGLang's registry there is no table
    why = f"vLLM {release_name(load.version)} has no class for {architecture}"
    if spans := span_text("vllm", architecture, "architectures"):
        why += f"; releases with it: {spans}"
    names = get_close_matches(architecture, names_of("vllm", "architectures"), 1, 0.8)
    do = [f"if config.json was retyped: its registry has {names[0]}"] if names else []
    return Route("", "refused", why, do=(*do, "plan for Transformers: --engine transformers"))


def _target(shape: ModelShape, load: Workload, *, grouped: bool) -> ServingTarget:
    dtype = "float16" if grouped else activations(shape, load)  # which every kernel of codes takes
    return ServingTarget(load.gpu, load.tp, load.version, dtype)


def offered(form: WeightFormat, load: Workload) -> bool:
    """Whether to plan a format that is not stored: 4-bit floats only where they are multiplied."""
    if form.method not in ("nvfp4", "mxfp4"):
        return True
    if form.method == "mxfp4" and load.engine.name == "sglang":
        return False  # it quantizes to MXFP4 while loading on AMD only
    amd = form.method == "mxfp4" and load.gpu.gfx.startswith("gfx95")
    native = load.gpu.capability >= FP4_FROM or amd
    return native and (form.method == "nvfp4" or load.version >= ONLINE_MXFP4)


def activations(shape: ModelShape, load: Workload) -> str:
    """The 16-bit type to serve in: the model's own, float16 where the device has no bfloat16."""
    if load.gpu.vendor == "cpu":
        return "bfloat16"  # float16 has slow kernels there
    if 0 < load.gpu.capability < BFLOAT16_FROM:
        return "float16"
    return shape.dtype if shape.dtype in ("float16", "bfloat16") else "bfloat16"


# By method: the kernel in Transformers, whether it is fast, and why (Transformers 5,
# quantizers/*.py); the least compute capability.
_TRANSFORMERS = {
    **dict.fromkeys(
        ("compressed-tensors", "nvfp4", "int8", "mxfp8"),
        ("cuBLAS", False, "Transformers dequantizes compressed-tensors while it loads", 0),
    ),
    "fp8_block": ("Triton FP8", True, "Transformers' own Triton kernels for blocks of FP8", 89),
    "mxfp4": ("Triton MXFP4", True, "the experts' Triton kernels, of the package kernels", 75),
}


def _transformers(form: WeightFormat, gpu: Gpu) -> Route:
    if row := _TRANSFORMERS.get(form.method):
        kernel, fast, why, least = row
        if gpu.vendor == "nvidia" and gpu.capability >= least and fast:
            return Route(kernel, "fast", why)
        slow = "the weights are dequantized while they load" if fast else why
        do = "use --format awq with Transformers" if form.method == "compressed-tensors" else ""
        return Route("cuBLAS", "slow", slow, do=(do or "serve with vLLM",))
    if form.method in ("awq", "gptq", "awq_gemv"):
        if gpu.vendor in ("nvidia", "cpu", "intel"):
            why = "Transformers 5 runs it through gptqmodel; on a CPU fast in bfloat16 only"
            return Route("gptqmodel", "fast", why)
        why = "gptqmodel's fast kernels are for NVIDIA and CPUs; PyTorch's own is left"
        return Route("gptqmodel", "slow", why, do=("serve with vLLM or llama.cpp",))
    if form.method == "bitsandbytes":
        if gpu.vendor == "apple":
            why = "bitsandbytes has no kernels for Apple's GPUs"
            return Route("", "refused", why, do=("use GGUF with llama.cpp",))
        return Route("bitsandbytes", "fast", "bitsandbytes unpacks while it multiplies")
    if form.method not in METHODS:
        why = f"Transformers runs {form.title} with the method's own package"
        return Route(form.method, "slow", why)
    return Route("cuBLAS", "fast", "the vendor's own matrix product, by PyTorch")


def _llama_cpp(form: WeightFormat, gpu: Gpu) -> Route:
    how = {"apple": "Metal", "nvidia": "CUDA", "amd": "HIP or Vulkan", "intel": "SYCL or Vulkan"}
    return Route("llama.cpp", "fast", f"llama.cpp's {how.get(gpu.vendor, 'CPU')} kernels")


def _salient(form: WeightFormat, gpu: Gpu) -> Route:
    if gpu.vendor in ("nvidia", "amd"):
        return Route("Salient", "fast", "Salient's Triton kernels")
    return Route("Salient", "fast", "Salient's C++ kernels, on the processor")


def _mlx(form: WeightFormat, gpu: Gpu) -> Route:
    if gpu.vendor == "apple":
        return Route("MLX", "fast", "mlx-lm's Metal kernels")
    why, do = "MLX runs on Apple's chips", "use GGUF with llama.cpp, or the 16-bit model with vLLM"
    return Route("", "refused", why, do=(do,))


_ROUTES: dict[str, Callable[[WeightFormat, Gpu], Route]] = {
    "transformers": _transformers,
    "llama.cpp": _llama_cpp,
    "salient": _salient,
    "mlx": _mlx,
}
