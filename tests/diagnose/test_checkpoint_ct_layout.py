"""compressed-tensors: faults are the first finding; llm-compressor's folders raise no alarm."""

import pytest
import torch

from helpers.faults import DOWN, alarms, copied, edit, first, linears, settings, text_of, weights
from helpers.rtn_checkpoints import rounded_toy
from salient.core.model_files import SINGLE, read_json
from salient.diagnose.checkpoint.check import read_checkpoint

ROUTERS = "re:.*mlp[.]gate$"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A tiny Llama, packed, with zero points; do not change it."""
    return rounded_toy(tmp_path_factory.mktemp("packed"), format="compressed-tensors")


@pytest.fixture(scope="module")
def symmetric(tmp_path_factory):
    """The same without zero points; do not change it."""
    folder = tmp_path_factory.mktemp("symmetric")
    return rounded_toy(folder, format="compressed-tensors", scheme="w4-g32-sym")


@pytest.fixture
def toy(good, tmp_path):
    return copied(good, tmp_path / "toy")


def gone(suffix):
    return lambda folder: edit(folder, lambda t: t.pop(f"{DOWN}.{suffix}"))


def put(suffix, change):
    """Replaces a tensor of DOWN by a function of it."""
    name = f"{DOWN}.{suffix}"
    return lambda folder: edit(folder, lambda t: t.update({name: change(t[name])}))


def nan_scale(scales):
    scales[5, 2] = torch.nan
    return scales


def zero_scale(scales):
    scales[7, 1] = 0
    return scales


def declared(*drop, **changes):
    return lambda folder: settings(folder, *drop, **changes)


def of_weights(*drop, **changes):
    return lambda folder: weights(folder, *drop, **changes)


def no_targets(folder):
    groups = read_json(folder / "config.json")["quantization_config"]["config_groups"]
    groups["group_0"]["targets"] = None
    settings(folder, config_groups=groups)


FAULTS = {
    "no scales": (gone("weight_scale"), "tensor-missing", f"{SINGLE}: {DOWN}.weight_scale"),
    "no shape": (gone("weight_shape"), "tensor-missing", f"{SINGLE}: {DOWN}.weight_shape"),
    "no zeros": (gone("weight_zero_point"), "tensor-missing", f"{DOWN}.weight_zero_point"),
    "NaN": (put("weight_scale", nan_scale), "scale-not-finite", "[5, 2]: group 2 of output 5"),
    "zero scale": (put("weight_scale", zero_scale), "scale-zero", "group 1 of output 7"),
    "constant codes": (put("weight_packed", torch.zeros_like), "codes-constant", "0x00000000"),
    "symmetric": (of_weights(symmetric=True), "zeros-unexpected", '+  "symmetric": false'),
    "group size": (of_weights(group_size=64), "group-size-wrong", '+  "group_size": 32'),
    "a whole row": (of_weights(strategy="channel"), "group-size-wrong", '+  "strategy": "group"'),
    "bits": (of_weights(num_bits=8), "bits-wrong", '+  "num_bits": 4'),
    "strategy": (of_weights(strategy="block"), "config-strategy", "group or channel"),
    "order": (of_weights(actorder="group"), "config-actorder", "no longer supported"),
    "group in letters": (of_weights(group_size="32"), "config-type", "weights.group_size"),
    "no bits": (of_weights("num_bits"), "config-type", "weights.num_bits"),
    "no groups": (declared("config_groups"), "config-type", "config_groups"),
    "no targets": (no_targets, "config-type", '["Linear"]'),
    "no format": (declared("format"), "config-format", '+  "format": "pack-quantized"'),
    "ignored": (declared(ignore=["lm_head", DOWN]), "skip-entry-hits", f"names {DOWN}"),
    "ignored by pattern": (declared(ignore=["re:.*down_proj"]), "skip-entry-hits", "2 linears"),
    "bytes for zeros": (
        put("weight_zero_point", lambda _: torch.zeros(64, 3, dtype=torch.int8)),
        "zeros-unpacked",
        f"{SINGLE}: {DOWN}.weight_zero_point I8 [64, 3]",
    ),
    "shape of zeros": (
        put("weight_zero_point", lambda z: z[:4].clone()),
        "shape-disagrees",
        "weight_zero_point is [4, 3], [8, 3] fits",
    ),
    "shape of scales": (
        put("weight_scale", lambda s: s[:32].clone()),
        "shape-disagrees",
        "weight_scale is [32, 3], the codes have 64 rows of 96",
    ),
    "written shape": (
        put("weight_shape", lambda _: torch.tensor([64, 88])),
        "shape-disagrees",
        "weight_shape says [64, 88]",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_packed_linears_is_the_first_finding(toy, name):
    fault, expected, text = FAULTS[name]
    fault(toy)
    finding = first(toy)
    assert finding.id == expected
    assert finding.level == "error"
    assert text in text_of(finding)


def test_asymmetric_settings_without_zero_points_are_fixed_by_one_key(symmetric, tmp_path):
    toy = copied(symmetric, tmp_path / "toy")
    weights(toy, symmetric=False)
    finding = first(toy)
    assert finding.id == "zeros-absent"
    assert '+  "symmetric": true' in finding.do
    weights(toy, symmetric=True)
    assert alarms(read_checkpoint(toy)) == []


def test_a_16_bit_linear_that_ignore_does_not_name_is_an_error(toy):
    def change(tensors):
        for name in [n for n in tensors if n.startswith(f"{DOWN}.")]:
            del tensors[name]
        tensors[f"{DOWN}.weight"] = torch.ones(64, 96, dtype=torch.float16)

    edit(toy, change)
    finding = first(toy)
    assert finding.id == "linear-16-bit"
    assert f'+  "ignore": ["lm_head", "{DOWN}"]' in finding.do
    settings(toy, ignore=["lm_head", DOWN])
    assert alarms(read_checkpoint(toy)) == []


def test_llm_compressors_own_settings_raise_no_alarm(toy):
    """What llm-compressor 0.14 writes beside its tensors, routers and all."""
    changes = {
        "config_groups": {
            "group_0": {
                "format": "pack-quantized",
                "input_activations": None,
                "output_activations": None,
                "targets": ["Linear"],
                "weights": {
                    "actorder": None,
                    "block_structure": None,
                    "dynamic": False,
                    "group_size": 32,
                    "num_bits": 4,
                    "observer": "memoryless_minmax",
                    "observer_kwargs": {},
                    "scale_dtype": None,
                    "strategy": "group",
                    "symmetric": False,
                    "type": "int",
                    "zp_dtype": "torch.int8",
                },
            }
        },
        "format": "pack-quantized",
        "global_compression_ratio": None,
        "ignore": ["lm_head", ROUTERS],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.19.0",
    }
    settings(toy, **changes)
    assert alarms(read_checkpoint(toy)) == []


def test_a_scale_a_row_is_read_with_its_own_strategy(toy):
    def change(tensors):
        for name in linears(tensors, ".weight_scale"):
            tensors[f"{name}.weight_scale"] = tensors[f"{name}.weight_scale"][:, :1].clone()
            del tensors[f"{name}.weight_zero_point"]

    edit(toy, change)
    weights(toy, "group_size", strategy="channel", symmetric=True)
    reading = read_checkpoint(toy)
    assert alarms(reading) == []
    assert (reading.zeros, reading.group) == (False, -1)


def test_groups_of_settings_hold_for_the_linears_that_their_targets_name(toy):
    """Two config groups with other group sizes, each right for its own linears."""

    def change(tensors):
        for name in linears(tensors, ".weight_scale"):
            if name.endswith("down_proj"):
                tensors[f"{name}.weight_scale"] = tensors[f"{name}.weight_scale"][:, :1].clone()
                zeros = tensors[f"{name}.weight_zero_point"]
                tensors[f"{name}.weight_zero_point"] = zeros[:, :1].clone()

    edit(toy, change)
    assert first(toy).id == "group-size-mixed"
    groups = read_json(toy / "config.json")["quantization_config"]["config_groups"]
    usual = groups["group_0"]["weights"]
    down = {"targets": ["re:.*down_proj$"], "weights": usual | {"group_size": 96}}
    settings(toy, config_groups=groups | {"group_1": down})
    assert alarms(read_checkpoint(toy)) == []
    down["targets"] = ["re:.*up_proj$"]
    settings(toy, config_groups=groups | {"group_1": down})
    pair = read_checkpoint(toy).findings[:2]
    assert [f.id for f in pair] == ["group-size-wrong", "group-size-mixed"]
    assert "config_groups.group_1.weights" in text_of(pair[0])


def test_packs_of_small_floats_are_not_judged_as_integers(toy):
    """NVFP4 has the same names for other tensors."""

    def change(tensors):
        for name in linears(tensors, ".weight_packed"):
            packed = tensors[f"{name}.weight_packed"].view(torch.uint8)
            tensors[f"{name}.weight_packed"] = packed.clone()

    edit(toy, change)
    settings(toy, format="nvfp4-pack-quantized")
    reading = read_checkpoint(toy)
    assert alarms(reading) == []
    assert "method-other" in [f.id for f in reading.findings]
