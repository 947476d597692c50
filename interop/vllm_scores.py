"""Score texts with vLLM and a checkpoint of a reward model.

Runs in the environment `vllm`; missing tensors are errors.

    PYTHON=$(interop/environment.sh vllm)
    $PYTHON interop/vllm_scores.py CHECKPOINT PROMPTS.json OUT.json
"""

import argparse
import json
import os
from pathlib import Path


def main() -> None:
    """Score each prompt of a JSON list; write a JSON list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    arguments = parser.parse_args()
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, PoolingParams

    engine = LLM(
        model=str(arguments.checkpoint),
        runner="pooling",
        dtype=arguments.dtype,
        enforce_eager=True,
        max_model_len=256,
        model_loader_extra_config={"enable_weights_track": True},
    )
    prompts = json.loads(arguments.prompts.read_text("utf-8"))
    outputs = engine.classify(prompts, pooling_params=PoolingParams(use_activation=False))
    scores = [output.outputs.probs for output in outputs]
    arguments.out.write_text(json.dumps(scores) + "\n", "utf-8")


if __name__ == "__main__":
    main()
