"""Laws of counting a folder by the headers of its files, whatever its architecture and format."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.checkpoints import folder_of
from helpers.families import FAMILIES
from helpers.meta_models import ALL
from helpers.rtn_checkpoints import rounded_toy
from helpers.toy_models import rewrite_json, tiny_model
from salient.core.errors import ModelError
from salient.core.model_files import read_json, stored_tensors
from salient.shapes.from_config import read_shape
from salient.shapes.model_shape import ModelShape
from salient.shapes.resolve import shape_of_folder

# One of each way to name and to store matrices.
NAMED = (
    "llama", "phi3", "gpt2", "opt", "mpt", "olmo2", "mixtral", "granitemoehybrid", "gpt_oss",
    "llama4_text", "deepseek_v3", "ernie4_5_moe", "hunyuan_v1_moe", "qwen3_5_moe_text", "jamba",
    "nemotron_h", "falcon_h1", "lfm2", "minimax", "mamba2", "gemma3", "qwen2_vl", "llava",
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models on disk under the names of their publishers; do not change them."""
    saved = {}

    def folder(kind: str):
        if kind not in saved:
            saved[kind] = tmp_path_factory.mktemp(kind)
            family = FAMILIES[kind]
            tiny_model(kind, vision=family.vision, **family.changes).save_pretrained(saved[kind])
        return saved[kind]

    return folder


def stored(folder) -> int:
    """Elements of all tensors but the tables that MiniMax computes."""
    computed = ("slope_rate", "_decay")
    return sum(t.elements for t in stored_tensors(folder).values() if not t.name.endswith(computed))


def counted_shape(folder) -> ModelShape:
    return read_shape(read_json(folder / "config.json"))


@pytest.mark.parametrize("kind", NAMED)
def test_a_folder_has_what_its_config_counts_by_the_names_in_its_files(kind, folders):
    shape, counted = shape_of_folder(folders(kind)), counted_shape(folders(kind))
    assert shape.blocks == counted.blocks
    assert (shape.embedding, shape.head, shape.other) == (
        counted.embedding, counted.head, counted.other
    )  # fmt: skip
    assert sum(shape.towers.values()) == sum(counted.towers.values())
    assert shape.parameters == stored(folders(kind))
    assert shape.notes == ()


@pytest.mark.parametrize("format", ["awq", "compressed-tensors"])
@pytest.mark.parametrize("kind", ["llama", "mixtral", "gpt_oss", "gpt2"])
def test_a_four_bit_checkpoint_has_the_shape_of_its_model(kind, format, tmp_path):
    folder = rounded_toy(tmp_path, kind, format=format)
    shape, original = shape_of_folder(folder), shape_of_folder(tmp_path / "model")
    assert (shape.blocks, shape.parameters) == (original.blocks, original.parameters)
    assert shape.quantization["quant_method"] == format
    assert shape.notes == ()


@pytest.mark.parametrize("kind", ["llama", "mixtral", "gpt_oss", "nemotron_h", "mamba2", "jamba"])
def test_an_unknown_family_is_exact_with_its_files(kind, folders, tmp_path):
    folder = tmp_path / "novel"
    shutil.copytree(folders(kind), folder)
    rewrite_json(folder / "config.json", model_type="novel", architectures=["Novel"])
    shape, known = shape_of_folder(folder), shape_of_folder(folders(kind))
    assert shape.parameters == stored(folder)
    sizes = [{(x.name, x.out, x.width, x.copies, x.bias) for x in b.linears} for b in shape.blocks]
    assert sizes == [
        {(x.name, x.out, x.width, x.copies, x.bias) for x in b.linears} for b in known.blocks
    ]
    assert [b.cache.values for b in shape.blocks] == [b.cache.values for b in known.blocks]
    assert shape.notes[0].startswith("model type 'novel' is unknown: its matrices are named from")


def test_an_unknown_config_with_other_keys_is_counted_only_from_its_files(folders, tmp_path):
    folder = tmp_path / "novel"
    shutil.copytree(folders("mixtral"), folder)
    (folder / "config.json").write_text('{"model_type": "novel", "width": 64, "depth": 2}')
    shape, known = shape_of_folder(folder), shape_of_folder(folders("mixtral"))
    assert (shape.parameters, len(shape.blocks)) == (known.parameters, 2)
    assert (shape.hidden, shape.vocab) == (known.hidden, known.vocab)
    assert shape.values_per_token == known.values_per_token


def changed(source, folder, change):
    """A copy of a folder whose tensors are changed by `change`."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_where_files_and_config_differ_the_files_count_and_a_note_says_both(folders, tmp_path):
    name = "model.layers.1.mlp.{}_proj.weight"

    def widen(tensors):
        for part, shape in (("gate", (128, 64)), ("up", (128, 64)), ("down", (64, 128))):
            tensors[name.format(part)] = torch.zeros(shape)

    folder = changed(folders("llama"), tmp_path / "wide", widen)
    shape = shape_of_folder(folder)
    assert shape.parameters == stored(folder)
    assert [one.out for one in shape.linears if one.name == "mlp.up_proj"] == [96, 128]
    counted = 2 * 3 * 64 * 96
    more = counted + 3 * 64 * 32
    assert shape.notes == (f"mlp: {more:,} parameters in the files, {counted:,} by config.json",)


def test_biases_that_the_config_lacks_are_counted(folders, tmp_path):
    def bias(tensors):
        for index in range(2):
            tensors[f"model.layers.{index}.self_attn.q_proj.bias"] = torch.zeros(64)

    shape = shape_of_folder(changed(folders("llama"), tmp_path / "biased", bias))
    assert all(one.bias for one in shape.linears if one.name == "self_attn.q_proj")
    assert "attention: " in shape.notes[0]


@pytest.mark.parametrize("name", ["model.layers.2.eh_proj.weight", "mtp.layers.0.fc.weight"])
def test_layers_that_predict_further_tokens_are_counted_apart(name, folders, tmp_path):
    """DeepSeek-V3 keeps its layer for multi-token prediction as one more layer."""

    def ahead(tensors):
        tensors[name] = torch.zeros(64, 128)

    source = folders("deepseek_v3")
    shape = shape_of_folder(changed(source, tmp_path / "ahead", ahead))
    assert (len(shape.blocks), shape.ahead) == (2, 64 * 128)
    assert shape.parameters == counted_shape(source).parameters
    assert shape.files_parameters == stored(tmp_path / "ahead")


def test_a_tied_head_that_is_stored_too_counts_once(folders, tmp_path):
    def head(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    source = tmp_path / "tied"
    tiny_model("gemma", **FAMILIES["gemma"].changes).save_pretrained(source)
    shape = shape_of_folder(changed(source, tmp_path / "both", head))
    assert shape.tied
    assert shape.parameters == counted_shape(source).parameters
    assert "tied to the embedding: counted once" in shape.notes[0]


def test_fp8_and_mxfp4_are_counted_as_their_sixteen_bits(folders, tmp_path):
    def eight(tensors):
        for name in [n for n in tensors if n.endswith("_proj.weight")]:
            tensors[name] = tensors[name].to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = torch.ones(1, 1)

    folder = changed(folders("llama"), tmp_path / "fp8", eight)
    rewrite_json(folder / "config.json", quantization_config={"quant_method": "fp8"})
    assert shape_of_folder(folder).blocks == counted_shape(folder).blocks

    def four(tensors):
        for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
            experts, width, out = tensors.pop(name).shape
            tensors[f"{name}_blocks"] = torch.zeros(
                experts, out, width // 32, 16, dtype=torch.uint8
            )
            tensors[f"{name}_scales"] = torch.zeros(experts, out, width // 32, dtype=torch.uint8)

    folder = changed(folders("gpt_oss"), tmp_path / "mxfp4", four)
    rewrite_json(folder / "config.json", quantization_config={"quant_method": "mxfp4"})
    assert shape_of_folder(folder).blocks == counted_shape(folder).blocks


@pytest.mark.parametrize(
    ("settings", "tensor", "shape", "dtype"),
    [
        ({"quant_method": "gptq", "bits": 4}, "qweight", (8, 96), torch.int32),
        ({"quant_method": "gptq", "bits": 8}, "qweight", (16, 96), torch.int32),
        ({"quant_method": "awq", "bits": 4}, "qweight", (64, 12), torch.int32),
        ({"quant_method": "awq", "bits": "odd"}, "qweight", (64, 12), torch.int32),
        ({"quant_method": "compressed-tensors"}, "weight_packed", (96, 32), torch.uint8),
        (
            {"quant_method": "compressed-tensors",
             "config_groups": {"group_0": {"weights": {"num_bits": 8}}}},
            "weight_packed", (96, 16), torch.int32,
        ),
        ({"quant_method": "modelopt"}, "weight", (96, 32), torch.uint8),
    ],
)  # fmt: skip
def test_codes_are_counted_by_the_bits_of_their_format(
    settings, tensor, shape, dtype, folders, tmp_path
):
    name = "model.layers.0.mlp.up_proj"

    def pack(tensors):
        tensors.pop(f"{name}.weight")
        tensors[f"{name}.{tensor}"] = torch.zeros(shape, dtype=dtype)
        tensors[f"{name}.scales"] = torch.ones(2, 96)

    folder = changed(folders("llama"), tmp_path / "packed", pack)
    rewrite_json(folder / "config.json", quantization_config=settings)
    assert shape_of_folder(folder).blocks == counted_shape(folder).blocks


def test_a_missing_block_is_an_error(folders, tmp_path):
    def drop(tensors):
        for name in [n for n in tensors if ".layers.1." in n]:
            del tensors[name]

    with pytest.raises(ModelError, match=r"counts 2 blocks, but .* no tensor of block 1"):
        shape_of_folder(changed(folders("llama"), tmp_path / "half", drop))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.ones(2)}, r"no list of blocks \(such as"),
        ({"model.layers.0.a.weight": torch.ones(2)}, "no embedding of tokens that is known"),
        (
            {"model.layers.99999.a.weight": torch.ones(2), "wte.weight": torch.ones(2, 2)},
            "hold a block 99999, but Salient counts models of up to 10000 blocks",
        ),
    ],
)
def test_files_of_no_language_model_are_refused(tensors, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        shape_of_folder(folder_of(tmp_path, {"model_type": "novel"}, tensors))


def test_a_folder_without_safetensors_is_counted_from_its_config_with_a_note(folders, tmp_path):
    shutil.copy(folders("llama") / "config.json", tmp_path)
    shape = shape_of_folder(tmp_path)
    assert shape.parameters == counted_shape(tmp_path).parameters
    assert shape.notes == ("the folder holds no safetensors: counted from its config.json alone",)
    (tmp_path / "pytorch_model.bin").write_bytes(b"0")
    assert "convert its pickles to safetensors" in shape_of_folder(tmp_path).notes[0]


@pytest.mark.parametrize(
    "kind", ["gemma4_text", "step3p7", "kimi_linear", "mllama", "mimo_v2_flash"]
)
def test_files_of_new_families_match_their_configs(kind, tmp_path):
    family = ALL[kind]
    tiny_model(kind, vision=family.vision, **family.changes).save_pretrained(tmp_path)
    assert shape_of_folder(tmp_path).notes == ()
