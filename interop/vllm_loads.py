"""Whether vLLM's own loader finds a place for every tensor of a checkpoint, and fills every one.

Runs in the environment `vllm`. vLLM builds its model and loads the checkpoint with
`enable_weights_track`, which complains of any parameter that no tensor reached; a name without a
place or a wrong shape is an error of its loader. No token is computed: that lets 4-bit experts be
checked on a CPU, for which vLLM has a kernel only with AMX. Where it finds none, its search for one
is passed over; names, shapes and loaders stay its own.

What came to lie in the experts' parameters is written out, for the caller to compare.

    PYTHON=$(interop/environment.sh vllm)
    $PYTHON interop/vllm_loads.py CHECKPOINT OUT.json OUT.safetensors
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    """Load, and write what was loaded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("experts", type=Path, help="the experts' parameters as vLLM holds them")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    arguments = parser.parse_args()
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_MLA_DISABLE", "1")  # its CPU attention has no MLA
    found = load(arguments.checkpoint, arguments.experts, arguments.dtype)
    arguments.out.write_text(json.dumps(found) + "\n", "utf-8")


def load(checkpoint: Path, experts: Path, dtype: str) -> dict[str, Any]:
    """What vLLM's loader made of `checkpoint`; raises what it raises."""
    import torch
    from safetensors.torch import save_file
    from vllm import __version__
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
    from vllm.model_executor.model_loader.utils import initialize_model

    skipped = pass_over_missing_kernels()
    config = EngineArgs(
        model=str(checkpoint),
        dtype=dtype,
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=128,
        model_loader_extra_config={"enable_weights_track": True},
    ).create_engine_config()
    torch.set_default_dtype(getattr(torch, dtype))
    with set_current_vllm_config(config), tempfile.NamedTemporaryFile() as meeting:
        address = f"file://{meeting.name}"
        init_distributed_environment(1, 0, address, 0, "gloo")
        initialize_model_parallel(1, 1)
        model = initialize_model(config)
        DefaultModelLoader(config.load_config).load_weights(model, config.model_config)
    parameters = dict(model.named_parameters())
    stacked = {n: p.data for n, p in parameters.items() if "w13_" in n or "w2_" in n}
    save_file({n: p.contiguous() for n, p in stacked.items()}, experts)
    kinds = {type(m.quant_method).__name__ for m in model.modules() if hasattr(m, "quant_method")}
    return {
        "parameters": len(parameters),
        "expert_parameters": len(stacked),
        "methods": sorted(kinds),
        "kernel_passed_over": bool(skipped),
        "vllm": __version__,
    }


def pass_over_missing_kernels() -> list[str]:
    """Let a model with 4-bit experts be built where vLLM has no kernel for them; notes it."""
    from vllm.model_executor.layers.quantization import auto_awq
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_moe import (
        compressed_tensors_moe_wna16 as wna16,
    )

    skipped: list[str] = []
    select = auto_awq.select_wna16_moe_backend

    def or_none(*given: Any, **named: Any) -> tuple[Any, Any]:
        try:
            return select(*given, **named)
        except NotImplementedError as error:
            skipped.append(str(error))
            return None, None

    for module in (auto_awq, wna16):
        module.select_wna16_moe_backend = or_none
    return skipped


if __name__ == "__main__":
    main()
