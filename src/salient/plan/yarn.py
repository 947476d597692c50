"""YaRN for contexts beyond the native length, where the maker of the model has tried it."""

from math import ceil

from salient.core.errors import RequestError
from salient.shapes.model_shape import ModelShape

from .memory import Workload, YarnOverride

# Families whose model cards give YaRN's settings, and up to which factor: Qwen's (Qwen2.5, Qwen3,
# Qwen3-Next, Qwen3-VL, Qwen3.5) and GLM-4-0414's.
_FACTORS = {
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next"), 4.0),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4"), 4.0),
}
# The length that the model was trained on where its config states room for an answer besides: the
# cards of Qwen3.
_TRAINED = {40960: 32768}
PARAMETERS_SINCE = (0, 12)  # the release of vLLM from which the key is rope_parameters


def yarn_override(shape: ModelShape, context: int) -> YarnOverride:
    """The scaling with which the model takes `context` tokens.

    Raises RequestError where its maker has not tried it.
    """
    native = _TRAINED.get(shape.context or 0, shape.context or 0)
    rope, most = shape.rope, _FACTORS.get(shape.model_type, 1.0)
    if rope.kind == "yarn":
        native = int(rope.number("original_max_position_embeddings")) or native
    largest = int(native * most)
    if rope.kind not in ("default", "yarn") or "." in rope.section or context > largest:
        raise RequestError(
            f"--context-length {context} is more than the model was made for: {shape.context} "
            f"tokens (max_position_embeddings in its config.json){_beyond(shape, largest)}. "
            f"Give at most {max(largest, shape.context or 0)}."
        )
    factor = ceil(context / native * 10) / 10
    parameters = {
        **rope.parameters,
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": native,
    }
    return YarnOverride(factor, native, parameters, rope.section)


def _beyond(shape: ModelShape, largest: int) -> str:
    if largest > (shape.context or 0):
        return f", and {largest} with YaRN by its model card"
    return ", and its model card gives no settings of YaRN for more"


def override_keys(rope: YarnOverride, *, parameters: bool = True) -> dict[str, object]:
    """What changes in the config: for vLLM's --hf-overrides, SGLang's --json-model-override-args.

    parameters: whether the engine reads rope_parameters (Transformers 5), else rope_scaling
    """
    values: dict[str, object] = {
        "rope_parameters" if parameters else "rope_scaling": dict(rope.parameters)
    }
    return {rope.section: values} if rope.section else values


def yarn_note(load: Workload) -> str:
    """What the scaling costs, "" without one."""
    if load.rope is None:
        return ""
    return (
        f"YaRN stretches positions {load.rope.factor:g} x for {load.context} tokens; engines do so "
        f"for every text, and short ones lose a little: leave it out where {load.rope.native} do"
    )
