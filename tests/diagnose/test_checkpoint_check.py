"""Good checkpoints of every writer raise no alarm; other layouts and methods are recognized."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.faults import (
    DOWN,
    alarms,
    config,
    copied,
    edit,
    first,
    linears,
    settings,
    text_of,
    write_config,
)
from helpers.rtn_checkpoints import MIXED, rounded_toy
from helpers.toy_models import save, tiny_model
from salient.core.model_files import SINGLE, read_json
from salient.core.progress import Progress
from salient.core.scheme import Scheme
from salient.diagnose.checkpoint import check
from salient.diagnose.checkpoint.check import read_checkpoint
from salient.diagnose.checkpoint.contents import FINDINGS
from salient.diagnose.checkpoint.tensor_layout import LAYOUTS


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A tiny Llama of two blocks in AutoAWQ's layout, groups of 32; do not change it."""
    return rounded_toy(tmp_path_factory.mktemp("awq"))


@pytest.fixture
def toy(good, tmp_path):
    return copied(good, tmp_path / "toy")


@pytest.mark.parametrize("kind", ["llama", "mixtral", "deepseek_v3", "qwen3_next", "qwen2_vl"])
@pytest.mark.parametrize("format", ["awq", "compressed-tensors"])
def test_checkpoints_of_each_writer_raise_no_alarm(tmp_path, kind, format):
    reading = read_checkpoint(rounded_toy(tmp_path, kind, format=format))
    assert alarms(reading) == []
    assert (reading.method, reading.group, reading.bits, reading.zeros) == (format, 32, 4, True)
    assert reading.modules > 10
    finding = next(f for f in reading.findings if f.id == "checkpoint-whole")
    assert f"{reading.modules} linears" in finding.title


@pytest.mark.parametrize("format", ["awq", "compressed-tensors"])
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("llama", {"scheme": "w4-g32-sym"}),
        ("llama", {"dtype": torch.bfloat16}),
        ("llama", {"skip": ("model.layers.0.*",)}),
        ("llama", {"skip": ("o_proj",)}),
        ("llama", {"changes": {"tie_word_embeddings": False}}),
        ("gemma", {}),
    ],
)
def test_choices_of_the_writer_raise_no_alarm(tmp_path, format, kind, how):
    reading = read_checkpoint(rounded_toy(tmp_path, kind, format=format, **how))
    assert alarms(reading) == []
    symmetric = how.get("scheme") is not None
    assert reading.zeros is (format == "awq" or not symmetric)  # AWQ writes the zeros of 8 out
    whole = next(f for f in reading.findings if f.id == "checkpoint-whole")
    assert ("symmetric" in whole.title) is symmetric


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_linears_with_schemes_of_their_own_raise_no_alarm(tmp_path, kind):
    own = dict(MIXED)
    if kind == "mixtral":
        names = [f"{i}.{part}" for i in range(8) for part in ("gate_proj", "up_proj", "down_proj")]
        own = {f"model.layers.1.mlp.experts.{n}": Scheme(32, symmetric=True, bits=8) for n in names}
    reading = read_checkpoint(rounded_toy(tmp_path, kind, format="compressed-tensors", own=own))
    assert alarms(reading) == []
    assert "checkpoint-whole" in {finding.id for finding in reading.findings}


def as_autoawq(folder, **changes):
    """AutoAWQ 0.2's own settings, with Transformers' additions."""
    model_config = {
        "backend": "autoawq",
        "bits": 4,
        "do_fuse": False,
        "exllama_config": None,
        "group_size": 32,
        "modules_to_not_convert": None,
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    }
    config(quantization_config=model_config | changes)(folder)


def test_autoawqs_own_settings_raise_no_alarm(toy):
    as_autoawq(toy)
    assert alarms(read_checkpoint(toy)) == []


@pytest.mark.parametrize(("sym", "desc_act"), [(True, False), (False, True)])
def test_keys_inherited_from_gptq_are_a_note(toy, sym, desc_act):
    as_autoawq(toy, sym=sym, desc_act=desc_act)
    reading = read_checkpoint(toy)
    assert alarms(reading) == []
    assert "config-legacy" in [f.id for f in reading.findings]


def test_settings_in_text_config_are_read_with_a_note(tmp_path):
    toy = rounded_toy(tmp_path, "qwen2_vl")
    model_config = read_json(toy / "config.json")
    model_config["text_config"]["quantization_config"] = model_config.pop("quantization_config")
    write_config(toy, model_config)
    reading = read_checkpoint(toy)
    assert alarms(reading) == []
    assert "config-nested" in [f.id for f in reading.findings]


def test_a_16_bit_folder_is_not_quantized_and_no_error(tmp_path):
    reading = read_checkpoint(save(tiny_model(), tmp_path / "model"))
    assert (reading.method, reading.modules, reading.group) == ("", 0, None)
    assert [f.id for f in reading.findings] == ["not-quantized", "template-missing"]


def test_a_head_in_addition_to_a_tied_embedding_is_a_note(toy):
    edit(toy, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    config(tie_word_embeddings=True)(toy)
    reading = read_checkpoint(toy)
    assert alarms(reading) == []
    assert "head-tied" in [f.id for f in reading.findings]


def test_progress_ends_with_all_bytes_and_never_falls(good):
    steps = []
    read_checkpoint(good, progress=Progress(lambda *step: steps.append(step)))
    done = [step[0] for step in steps]
    assert done == sorted(done)
    assert steps[-1][0] == steps[-1][1] > 0


def other_layout(name):
    """The tensors of every linear in another of AutoAWQ's layouts, by shape."""

    def change(tensors):
        for linear in linears(tensors):
            width, out = tensors[f"{linear}.qweight"].shape[0], tensors[f"{linear}.scales"].shape[1]
            groups = width // 32
            columns = max(4, -(-groups // 8))  # GEMV pads zeros of groups of 32 to four words
            parts = {
                "gemv": {
                    "qweight": torch.ones(out, width // 8, dtype=torch.int32),
                    "qzeros": torch.ones(out, columns, dtype=torch.int32),
                    "scales": torch.ones(out, columns * 8, dtype=torch.float16),
                },
                "gemv-fast": {
                    "qweight": torch.ones(out // 4, width, dtype=torch.int16),
                    "qzeros": torch.ones(columns * 8, out, dtype=torch.float16),
                    "scales": torch.ones(columns * 8, out, dtype=torch.float16),
                },
                "marlin": {
                    "qweight": torch.ones(width // 16, out * 2, dtype=torch.int32),
                    "scales": torch.ones(groups, out, dtype=torch.float16),
                },
                "gptq": {
                    "qweight": torch.ones(width // 8, out, dtype=torch.int32),
                    "qzeros": torch.ones(groups, out // 8, dtype=torch.int32),
                    "scales": torch.ones(groups, out, dtype=torch.float16),
                    "g_idx": torch.arange(width, dtype=torch.int32) // 32,
                },
            }[name]
            for suffix in ("qweight", "qzeros", "scales"):
                tensors.pop(f"{linear}.{suffix}")
            tensors |= {f"{linear}.{suffix}": tensor for suffix, tensor in parts.items()}

    return change


@pytest.mark.parametrize("name", ["gemv", "gemv-fast", "marlin", "gptq"])
def test_other_layouts_are_named_by_their_shapes(toy, name):
    edit(toy, other_layout(name))
    finding = first(toy)
    assert finding.id == f"layout-{name}"
    assert f"{SINGLE}: model.layers" in text_of(finding)
    assert "salient quantize" in text_of(finding)


def test_gptqs_own_settings_over_the_same_names_are_not_judged(toy):
    edit(toy, other_layout("gptq"))
    config(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32})(toy)
    reading = read_checkpoint(toy)
    assert (reading.method, alarms(reading)) == ("gptq", [])
    assert (reading.group, reading.bits, reading.modules) == (32, 4, 0)
    assert "method-other" in [f.id for f in reading.findings]


def test_zero_point_false_over_symmetric_weights_is_slow_and_no_error(tmp_path):
    toy = rounded_toy(tmp_path, scheme="w4-g32-sym")
    settings(toy, zero_point=False)
    finding = first(toy)
    assert (finding.id, finding.level) == ("zero-point-slow", "slow")
    assert '+  "zero_point": true' in finding.do


def test_negative_scales_are_damage_only_where_there_are_zero_points(tmp_path):
    """AutoRound's symmetric schemes have them."""
    toy = rounded_toy(tmp_path, scheme="w4-g32-sym")
    edit(toy, lambda t: t[f"{DOWN}.scales"].neg_())
    finding = first(toy)
    assert (finding.id, finding.level) == ("scale-negative-symmetric", "warning")


def test_a_bare_parameter_under_an_empty_list_misleads_vllm(tmp_path):
    """Its own list then names the whole mixer: quantization/auto_awq.py, maybe_update_config."""
    toy = rounded_toy(tmp_path, "mamba2")
    settings(toy, modules_to_not_convert=None)
    finding = first(toy)
    assert finding.id == "skip-list-derived"
    assert f"{SINGLE}: backbone.layers.0.mixer." in text_of(finding)
    settings(toy, modules_to_not_convert=["lm_head"])
    assert alarms(read_checkpoint(toy)) == []


def test_the_check_imports_no_torch_and_reads_no_tensor_library(good):
    code = (
        "import sys; from pathlib import Path;"
        "from salient.diagnose.checkpoint.check import read_checkpoint;"
        f"print(read_checkpoint(Path({str(good)!r})).modules, *sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, *imported = run.stdout.split()
    assert modules == "14"
    assert not {"torch", "transformers", "safetensors", "pydantic"} & set(imported)


def subnormal(tensors):
    tensors[f"{DOWN}.scales"][0, 0] = 2.0**-24


def all_bfloat16(tensors):
    for name in linears(tensors, ".scales"):
        tensors[f"{name}.scales"] = tensors[f"{name}.scales"].bfloat16()


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        (lambda folder: edit(folder, subnormal), "scale-subnormal"),
        (lambda folder: edit(folder, all_bfloat16), "dtype-scales"),
        (config(dtype="bfloat16"), "dtype-cast"),
        (config(model_type=None), "sizes-unknown"),
    ],
)
def test_harmless_oddities_are_notes(toy, fault, note):
    fault(toy)
    reading = read_checkpoint(toy)
    assert alarms(reading) == []
    assert note in [f.id for f in reading.findings if f.level == "note"]


def test_zeros_of_8_throughout_are_a_note(tmp_path):
    reading = read_checkpoint(rounded_toy(tmp_path, scheme="w4-g32-sym"))
    assert "zeros-symmetric" in [f.id for f in reading.findings if f.level == "note"]


def test_every_row_of_the_table_is_used():
    folder = Path(check.__file__).parent
    code = "".join(path.read_text() for path in folder.glob("*.py"))
    rows = {row for row in FINDINGS if not row.startswith("layout-")}
    assert not [row for row in rows if f'"{row}"' not in code]
    assert {f"layout-{name}" for name in (*LAYOUTS, "gemv-fast")} - FINDINGS.keys() == {
        "layout-gemm"
    }
