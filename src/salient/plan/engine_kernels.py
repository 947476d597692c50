"""Which kernel runs a format in each engine; `vllm.route` has vLLM's rules."""

from salient.plan.vllm.route import Route, ServingTarget, WeightPacking, route
from salient.shapes.model_shape import ModelShape

from .engine_profiles import ENGINES
from .gpus import Gpu
from .memory import Workload
from .weight_formats import WeightFormat

BFLOAT16_FROM = 80  # compute capability (CUDA C++ Programming Guide, table of features)


def route_of(shape: ModelShape, form: WeightFormat, load: Workload) -> Route:
    """How the engine of `load` would run `shape` in `form`."""
    name = load.engine.name
    if name not in form.engines:
        engines = ", ".join(engine for engine in ENGINES if engine in form.engines)
        why, do = f"{name} does not run {form.title}", f"{form.title} runs in {engines}"
        return Route("", "refused", why, do=(do,))
    if name == "vllm":
        dtype = activations(shape, load) if form.method == "none" else "float16"
        zeros = form.method in ("awq", "compressed-tensors")
        packing = WeightPacking(form.method, form.group or -1, zeros)
        packing = form.rules.default.packing if form.rules else packing
        return route(shape, packing, ServingTarget(load.gpu, load.tp, load.version, dtype))
    return {"transformers": _transformers, "llama.cpp": _llama_cpp, "salient": _salient}[name](
        form, load.gpu
    )


def activations(shape: ModelShape, load: Workload) -> str:
    """The 16-bit type to serve in: the model's own, float16 where the device has no bfloat16."""
    if load.gpu.vendor == "cpu":
        return "bfloat16"  # float16 has slow kernels there
    if 0 < load.gpu.capability < BFLOAT16_FROM:
        return "float16"
    return shape.dtype if shape.dtype in ("float16", "bfloat16") else "bfloat16"


def _transformers(form: WeightFormat, gpu: Gpu) -> Route:
    if form.method == "compressed-tensors":
        why = "Transformers dequantizes compressed-tensors while it loads"
        return Route("cuBLAS", "slow", why, do=("use --format awq with Transformers",))
    if form.method in ("awq", "gptq"):
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
    return Route("cuBLAS", "fast", "the vendor's own matrix product, by PyTorch")


def _llama_cpp(form: WeightFormat, gpu: Gpu) -> Route:
    how = {"apple": "Metal", "nvidia": "CUDA", "amd": "HIP or Vulkan", "intel": "SYCL or Vulkan"}
    return Route("llama.cpp", "fast", f"llama.cpp's {how.get(gpu.vendor, 'CPU')} kernels")


def _salient(form: WeightFormat, gpu: Gpu) -> Route:
    if gpu.vendor in ("nvidia", "amd"):
        return Route("Salient", "fast", "Salient's Triton kernels")
    return Route("Salient", "fast", "Salient's C++ kernels, on the processor")
