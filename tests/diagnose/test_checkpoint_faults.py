"""Every fault of an AWQ checkpoint is the first finding, with its file and tensor."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.families import FAMILIES
from helpers.faults import (
    DOWN,
    alarms,
    config,
    copied,
    edit,
    first,
    linears,
    overwrite,
    settings,
    text_of,
)
from helpers.rtn_checkpoints import rounded_toy
from salient.core.model_files import SINGLE
from salient.diagnose.checkpoint.check import read_checkpoint

NORMAL = 0x2C00  # bits of a plain float16


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A tiny Llama of two blocks in AutoAWQ's layout, groups of 32; do not change it."""
    return rounded_toy(tmp_path_factory.mktemp("awq"))


@pytest.fixture
def toy(good, tmp_path):
    return copied(good, tmp_path / "toy")


def lm_head_too(tensors):
    for suffix in ("qweight", "qzeros", "scales"):
        tensors[f"lm_head.{suffix}"] = tensors[f"{DOWN}.{suffix}"].clone()
    tensors.pop("lm_head.weight", None)


def scale(value, row=2, column=5):
    def change(tensors):
        tensors[f"{DOWN}.scales"][row, column] = value

    return lambda folder: edit(folder, change)


def gone(*names):
    return lambda folder: edit(folder, lambda t: [t.pop(name) for name in names])


def sixteen_bit(name):
    """The linear stored as a 16-bit weight."""

    def change(tensors):
        width, out = tensors[f"{name}.qweight"].shape[0], tensors[f"{name}.scales"].shape[1]
        for suffix in ("qweight", "qzeros", "scales"):
            del tensors[f"{name}.{suffix}"]
        tensors[f"{name}.weight"] = torch.ones(out, width, dtype=torch.float16)

    return lambda folder: edit(folder, change)


def cast(suffix, dtype):
    return lambda folder: edit(
        folder, lambda t: t.update({f"{DOWN}.{suffix}": t[f"{DOWN}.{suffix}"].to(dtype)})
    )


def key(*drop, **changes):
    return lambda folder: settings(folder, *drop, **changes)


def both(*faults):
    return lambda folder: [fault(folder) for fault in faults]


def constant(folder):
    edit(folder, lambda t: t[f"{DOWN}.qweight"].fill_(0x77777777))


def dead_group(folder):
    """A group of zero weights: codes all alike, scale zero."""

    def change(tensors):
        tensors[f"{DOWN}.qweight"][32:64] = -0x77777778
        tensors[f"{DOWN}.scales"][1] = 0

    edit(folder, change)


def half_empty(folder):
    edit(folder, lambda t: t["model.layers.0.mlp.down_proj.qweight"][:48].zero_())


def of_eight_bits(folder):
    """The shapes that 8-bit AWQ has: four codes a word."""

    def change(tensors):
        for name in linears(tensors):
            for suffix in ("qweight", "qzeros"):
                tensors[f"{name}.{suffix}"] = tensors[f"{name}.{suffix}"].repeat(1, 2)

    edit(folder, change)
    settings(folder, bits=8)


def embedding_too(tensors):
    del tensors["model.embed_tokens.weight"]
    for suffix in ("qweight", "qzeros", "scales"):
        tensors[f"model.embed_tokens.{suffix}"] = tensors[f"{DOWN}.{suffix}"].clone()


def zeroed_tail(folder):
    path = folder / SINGLE
    data = bytearray(path.read_bytes())
    data[-3000:] = bytes(3000)
    path.write_bytes(data)


FAULTS = {
    "no qzeros": (gone(f"{DOWN}.qzeros"), "tensor-missing", f"{SINGLE}: {DOWN}.qzeros"),
    "no scales": (gone(f"{DOWN}.scales"), "tensor-missing", "enable_weights_track"),
    "no codes": (gone(f"{DOWN}.qweight"), "tensor-missing", f"{DOWN}.qweight is missing"),
    "no linear": (
        gone(*(f"{DOWN}.{s}" for s in ("qweight", "qzeros", "scales"))),
        "linear-missing",
        f"{SINGLE}: {DOWN} missing; model.layers.0.mlp has it",
    ),
    "NaN": (scale(torch.nan), "scale-not-finite", "first at [2, 5]: group 2 of output 5"),
    "infinite": (scale(torch.inf), "scale-infinite", f"{SINGLE}: {DOWN}.scales 1 of 192 are Inf"),
    "minus infinite": (scale(-torch.inf), "scale-infinite", f"{DOWN}.scales"),
    "zero scale": (scale(0), "scale-zero", f"{DOWN}.scales 1 of 192 are zero"),
    "zero group": (dead_group, "scale-zero-unused", f"{DOWN}.scales 64 of 192 are zero"),
    "negative": (scale(-1), "scale-negative", "group 2 of output 5"),
    "far apart": (scale(60000), "scale-spread", f"{DOWN}.scales"),
    "constant codes": (constant, "codes-constant", "0x77777777"),
    "codes half empty": (half_empty, "codes-zeros", "model.layers.0.mlp.down_proj.qweight"),
    "8 bits": (of_eight_bits, "bits-unsupported", "Unsupported num_bits = 8"),
    "quantized embedding": (
        lambda folder: edit(folder, embedding_too),
        "embedding-quantized",
        f"{SINGLE}: model.embed_tokens.qweight",
    ),
    "zeros at the end": (zeroed_tail, "file-zeros", f"{SINGLE}: model.layers.1"),
    "group size": (key(group_size=64), "group-size-wrong", '+  "group_size": 32'),
    "group of a row": (key(group_size=-1), "group-size-wrong", '+  "group_size": 32'),
    "bits": (key(bits=8), "bits-wrong", '+  "bits": 4'),
    "zero_point false": (key(zero_point=False), "zero-point-false", f"{SINGLE}: model.layers.0"),
    "no zero_point": (key("zero_point"), "config-zero-point", "Cannot find any of ['zero_point']"),
    "no method": (key("quant_method"), "config-method", '+  "quant_method": "awq"'),
    "another method": (
        key(quant_method="compressed-tensors"),
        "method-contradicts",
        '+  "quant_method": "awq"',
    ),
    "version": (key(version="gemv"), "config-version", "GEMM"),
    "old spellings": (
        key("bits", "group_size", w_bit=4, q_group_size=32),
        "config-spelling",
        '+  "group_size": 32',
    ),
    "group in letters": (key(group_size="32"), "config-type", "a whole number"),
    "settings in letters": (config(quantization_config="awq"), "config-type", "a JSON object"),
    "no settings": (
        config(quantization_config=None),
        "config-missing",
        "There is no module or parameter named '...qweight'",
    ),
    "skipped too much": (
        key(modules_to_not_convert=["mlp.gate"]),
        "skip-entry-hits",
        "model.layers.0.mlp.gate_proj and, merged, model.layers.0.mlp.gate_up_proj",
    ),
    "skipped by Transformers": (
        key(modules_to_not_convert=["model.layers.[01].mlp"]),
        "skip-entry-hits",
        "Transformers",
    ),
    "skip list": (key(modules_to_not_convert="lm_head"), "config-type", "a list of names"),
    "16-bit k_proj": (
        sixteen_bit("model.layers.1.self_attn.k_proj"),
        "joined-mixed",
        f"{SINGLE}: model.layers.1.self_attn.k_proj.weight",
    ),
    "16-bit down_proj": (sixteen_bit(DOWN), "linear-16-bit", f"{SINGLE}: {DOWN}.weight"),
    "16-bit down_proj, a list": (
        both(sixteen_bit(DOWN), key(modules_to_not_convert=["lm_head"])),
        "linear-16-bit",
        f'"{DOWN}"]',
    ),
    "quantized head": (
        lambda folder: (edit(folder, lm_head_too), settings(folder, "modules_to_not_convert")),
        "head-quantized",
        f"{SINGLE}: lm_head.qweight",
    ),
    "a weight beside the codes": (
        lambda folder: edit(folder, lambda t: t.update({f"{DOWN}.weight": torch.ones(64, 96)})),
        "linear-twice",
        f"{SINGLE}: {DOWN}.weight",
    ),
    "type of zeros": (cast("qzeros", torch.int64), "dtype-wrong", f"{DOWN}.qzeros I64"),
    "type of scales": (cast("scales", torch.float64), "dtype-wrong", f"{DOWN}.scales F64"),
    "a group too few": (
        lambda folder: edit(folder, lambda t: t.update({f"{DOWN}.scales": torch.ones(2, 64)})),
        "shape-disagrees",
        "need scales [3, 64], qzeros [3, 8]",
    ),
    "a linear in other groups": (
        lambda folder: edit(
            folder,
            lambda t: t.update(
                {
                    f"{DOWN}.scales": t[f"{DOWN}.scales"][:1].clone(),
                    f"{DOWN}.qzeros": t[f"{DOWN}.qzeros"][:1].clone(),
                }
            ),
        ),
        "group-size-mixed",
        "96 inputs in 1 groups: 96 each",
    ),
    "intermediate_size": (
        config(intermediate_size=128),
        "config-sizes",
        '+  "intermediate_size": 96',
    ),
    "a block too few": (config(num_hidden_layers=3), "config-layers", "model.layers.2"),
    "a block too many": (config(num_hidden_layers=1), "config-layers", "gives 1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_the_first_finding_with_its_file_and_tensor(toy, name):
    fault, expected, text = FAULTS[name]
    fault(toy)
    finding = first(toy)
    assert finding.id == expected
    assert text in text_of(finding)
    assert finding.level in ("error", "warning")
    assert finding.title
    assert finding.why
    assert finding.do


def test_an_expert_that_lost_a_tensor_is_named(tmp_path):
    toy = rounded_toy(tmp_path, "qwen3_moe")
    tensors = load_file(toy / SINGLE)
    expert = next(n for n in linears(tensors) if ".experts.3." in n)
    for suffix in ("qweight", "qzeros", "scales"):
        del tensors[f"{expert}.{suffix}"]
    save_file(tensors, toy / SINGLE)
    finding = first(toy)
    assert finding.id == "linear-missing"
    assert finding.title == f"{expert} is missing"


def test_dense_layers_that_a_routers_entry_hits_get_entries_by_full_names(tmp_path):
    """Of DeepSeek the first block is dense: its gate_proj has the routers' name in it."""
    toy = rounded_toy(tmp_path, "deepseek_v3", changes=FAMILIES["deepseek_v3"].changes)
    settings(toy, modules_to_not_convert=["mlp.gate"])
    finding = first(toy)
    assert finding.id == "skip-entry-hits"
    assert '+  "modules_to_not_convert": ["model.layers.1.mlp.gate"]' in finding.do
    settings(toy, modules_to_not_convert=["model.layers.1.mlp.gate"])
    assert alarms(read_checkpoint(toy)) == []


def test_single_damaged_bits_of_a_scale_are_located(toy):
    overwrite(toy / SINGLE, f"{DOWN}.scales", 2 * (64 + 7), (0x7C01).to_bytes(2, "little"))
    finding = first(toy)
    assert finding.id == "scale-not-finite"
    assert "[1, 7]" in text_of(finding)
    overwrite(toy / SINGLE, f"{DOWN}.scales", 2 * (64 + 7), NORMAL.to_bytes(2, "little"))
    assert alarms(read_checkpoint(toy)) == []
