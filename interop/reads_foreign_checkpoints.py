"""Salient's runtime on checkpoints that other tools wrote.

The reference contains no code of Salient: Transformers' forward in float32, on the weights as the
format's own library unpacks them. The runtime computes a prompt, then token by token, and its
logits must agree within the rounding of its kernels.
"""

from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from checks import UNPACKERS, Case, Outcome, peer
from salient.runtime.load_engine import EngineOptions, load

PROMPT, STEPS = 24, 8  # tokens
# Of the largest logit. Measured: 1e-4, as activations are rounded to 15 bits. One zero off by one
# gives 7e-3, one scale a tenth too large 3e-3, two swapped rows of codes 7e-2.
TOLERANCE = 1e-3


def reads_foreign(case: Case) -> Outcome:
    """Compare the runtime's logits with those of the weights that the format's library unpacks."""
    theirs = case.work / "weights.safetensors"
    peer(case, "weights", UNPACKERS[case.format], case.folder, theirs)
    model = reference(case, load_file(theirs))
    theirs.unlink()
    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (PROMPT + STEPS,), generator=generator)
    with torch.inference_mode():
        expected = model(ids[None]).logits[0, PROMPT - 1 :]
    opened = load(
        str(case.folder), EngineOptions(device="cpu", dtype="float32", context_length=64, slots=1)
    )
    computed = logits(opened.engine.runner, ids.tolist())
    error = ((computed - expected).abs().max() / expected.abs().max()).item()
    kernels = sorted({name for name, _ in opened.model.kernels})
    figures = {
        "relative_error": error,
        "same_top": int((computed.argmax(-1) == expected.argmax(-1)).sum()),
        "positions": len(expected),
        "kernels": kernels,
        "runner": opened.engine.runner.how,
    }
    summary = (
        f"logits differ by {error:.1e} of the largest, {figures['same_top']} of {len(expected)} "
        f"top tokens equal; {', '.join(kernels)}, {opened.engine.runner.how}"
    )
    return Outcome("foreign", case.name, error < TOLERANCE, summary, figures)


def reference(case: Case, unpacked: dict[str, Tensor]) -> Any:
    """Transformers' model of the checkpoint's config in float32: `unpacked` weights, and the
    checkpoint's unquantized tensors."""
    config = AutoConfig.from_pretrained(case.folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    names = model.state_dict().keys()
    tensors = dict(unpacked)
    for shard in sorted(case.folder.glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            plain = names & set(file.keys())
            tensors |= {name: file.get_tensor(name).float() for name in plain}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    tied = set(model.all_tied_weights_keys or ())
    if odd := [*unexpected, *(set(missing) - tied)]:
        raise AssertionError(f"{case.folder} does not fill Transformers' model: {odd[:3]}")
    model.tie_weights()
    return model


def logits(runner: Any, ids: list[int]) -> Tensor:
    """The logits [STEPS + 1, vocab] after the prompt and after each further token of `ids`."""
    rows = [runner.prefill(0, ids[:PROMPT], 0)]
    for position in range(PROMPT, len(ids)):
        rows.append(runner.decode([0], [ids[position]], [position])[0])
    return torch.stack(rows)
