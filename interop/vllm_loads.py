"""Load a checkpoint with vLLM: every tensor must fill a parameter, and every parameter be filled.

Runs in the environment `vllm`. vLLM builds its model and loads the checkpoint with
`enable_weights_track`, which reports parameters that no tensor fills; an unknown name or a wrong
shape is an error of its loader. No token is computed, so 4-bit experts are checked on CPUs without
AMX too, for which vLLM has no kernel; the selection of the kernel is then skipped.

The parameters of experts are written to a file, for the caller to compare. With --mtp the model is
the one that drafts tokens, from the layers after the last one, and all its parameters are written.

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
    """Load; write the result and the experts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("experts", type=Path, help="safetensors file for the experts' parameters")
    parser.add_argument("--mtp", action="store_true", help="load the model that drafts tokens")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    arguments = parser.parse_args()
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_MLA_DISABLE", "1")  # its CPU attention has no MLA
    result = load(arguments.checkpoint, arguments.experts, arguments.dtype, mtp=arguments.mtp)
    arguments.out.write_text(json.dumps(result) + "\n", "utf-8")


def load(checkpoint: Path, experts: Path, dtype: str, *, mtp: bool) -> dict[str, Any]:
    """Load `checkpoint` with vLLM's loader; its errors are raised."""
    import torch
    from safetensors.torch import save_file
    from vllm import __version__
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
    from vllm.model_executor.model_loader.utils import initialize_model

    skipped = skip_missing_kernels()
    config = EngineArgs(
        model=str(checkpoint),
        dtype=dtype,
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=128,
        model_loader_extra_config={"enable_weights_track": True},
        speculative_config={"method": "mtp", "num_speculative_tokens": 1} if mtp else None,
    ).create_engine_config()
    torch.set_default_dtype(getattr(torch, dtype))
    with set_current_vllm_config(config), tempfile.NamedTemporaryFile() as rendezvous:
        address = f"file://{rendezvous.name}"
        init_distributed_environment(1, 0, address, 0, "gloo")
        initialize_model_parallel(1, 1)
        draft = config.speculative_config.draft_model_config if mtp else config.model_config
        model = initialize_model(config, model_config=draft)
        DefaultModelLoader(config.load_config).load_weights(model, draft)
    parameters = dict(model.named_parameters())
    stacked = {n: p.data for n, p in parameters.items() if mtp or "w13_" in n or "w2_" in n}
    save_file({n: p.contiguous() for n, p in stacked.items()}, experts)
    kinds = {type(m.quant_method).__name__ for m in model.modules() if hasattr(m, "quant_method")}
    return {
        "parameters": len(parameters),
        "expert_parameters": len(stacked),
        "methods": sorted(kinds),
        "kernel_passed_over": bool(skipped),
        "vllm": __version__,
    }


def skip_missing_kernels() -> list[str]:
    """Build models with 4-bit experts where vLLM has no kernel; returns the list of its errors."""
    from vllm.model_executor.layers.quantization import auto_awq
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_moe import (
        compressed_tensors_moe_wna16 as wna16,
    )

    skipped: list[str] = []
    select = auto_awq.select_wna16_moe_backend

    def select_or_none(*arguments: Any, **named: Any) -> tuple[Any, Any]:
        try:
            return select(*arguments, **named)
        except NotImplementedError as error:
            skipped.append(str(error))
            return None, None

    for module in (auto_awq, wna16):
        module.select_wna16_moe_backend = select_or_none
    return skipped


if __name__ == "__main__":
    main()
