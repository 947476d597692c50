"""Files and config.json that disagree are refused before a run, with what is there and what to do.

The cases are public reports' (weights of 8 bits without their config, lost heads and biases, ...).
"""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.runs import run
from helpers.toy_models import rewrite_json, save, tiny_model, toy_folder
from salient import api
from salient.core.errors import ModelError, SalientError, ShapeError
from salient.models.source_model import open_source_model
from salient.shapes.resolve import shape_of_folder

UP = "model.layers.0.mlp.up_proj.weight"
Q = "model.layers.0.self_attn.q_proj"


def change(folder, edit):
    """Edit the tensors of a folder in place."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata={"format": "pt"})


def eight_bits(suffix, dtype=torch.float8_e4m3fn):
    """Every linear in 8 bits, with its scale next to it."""

    def edit(tensors):
        for name in [n for n in tensors if n.endswith("_proj.weight")]:
            scale = tensors[name].float().abs().max() / 100
            module = name.removesuffix(".weight")
            tensors |= {name: (tensors[name] / scale).to(dtype), f"{module}.{suffix}": scale[None]}

    return lambda folder: change(folder, edit)


def modelopt(folder):
    eight_bits("weight_scale")(folder)
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')


def gptq(folder):
    def edit(tensors):
        for name in [n for n in tensors if n.endswith("_proj.weight")]:
            module, width = name.removesuffix(".weight"), tensors[name].shape[1]
            tensors[f"{module}.qweight"] = torch.zeros(width // 8, 64, dtype=torch.int32)
            tensors[f"{module}.scales"] = torch.ones(1, 64)
            tensors[f"{module}.g_idx"] = torch.zeros(width, dtype=torch.int32)
            del tensors[name]

    change(folder, edit)
    (folder / "quantize_config.json").write_text('{"bits": 4, "group_size": 64}')


def mlx(folder):
    def edit(tensors):
        for name in [n for n in tensors if n.endswith("_proj.weight")]:
            module, (rows, width) = name.removesuffix(".weight"), tensors[name].shape
            tensors[name] = torch.zeros(rows, width // 8, dtype=torch.uint32)
            tensors |= {f"{module}.{leaf}": torch.ones(rows, 1) for leaf in ("scales", "biases")}

    change(folder, edit)
    rewrite_json(folder / "config.json", quantization={"group_size": 64, "bits": 4})


def renamed(new):
    """All names changed by the function `new`."""

    def edit(tensors):
        for name in list(tensors):
            tensors[new(name)] = tensors.pop(name)

    return lambda folder: change(folder, edit)


def peft(folder):
    renamed(lambda n: "base_model.model." + n.replace("_proj.weight", "_proj.base_layer.weight"))(
        folder
    )
    change(folder, lambda t: t.update({f"base_model.model.{Q}.lora_A.weight": torch.ones(2, 64)}))


def config(**changes):
    return lambda folder: rewrite_json(folder / "config.json", **changes)


def side_car(name):
    return lambda folder: (folder / name).write_text("{}")


def added(name, shape=(64,)):
    return lambda folder: change(folder, lambda t: t.update({name: torch.ones(shape)}))


FOREIGN = {
    "ModelOpt FP8": (modelopt, r"FP8.*weight_scale' \(14\).*F8_E4M3.*hf_quant_config"),
    "block FP8": (eight_bits("weight_scale_inv"), r"holds FP8 weights with scales.*FineGrainedFP8"),
    "INT8": (eight_bits("scale", torch.int8), r"quantized weights: .* of type I8 \(14 such\)"),
    "GPTQ": (gptq, r"GPTQ or AWQ codes: .*quantize_config\.json \(of GPTQ\)"),
    "mlx": (mlx, r"codes with scales, as mlx.* of type U32 .*the key 'quantization' in config"),
    "peft": (peft, r"adapter of peft that is not merged.*merge_and_unload.*--adapter FOLDER"),
    "compiled": (renamed(lambda n: f"_orig_mod.{n}"), r"compiled model.*without '_orig_mod\.'"),
    "wrapped": (renamed(lambda n: f"module.{n}"), r"wrapped for training.*model\.module\.save"),
    "side-car": (side_car("quant_config.json"), r"file quant_config\.json .*or remove the file"),
    "nested": (config(llm={"quantization_config": {"bits": 4}}), r"key 'llm\.quantization_config'"),
    "bnb": (added(f"{Q}.weight.quant_state.bitsandbytes__nf4"), r"bitsandbytes.*dequantize\(\)"),
    "fp8 cache": (added(f"{Q[:-6]}k_scale", (1,)), r"scales: .*k_scale"),
    "calibrated": (added(f"{Q}.weight_quantizer._amax", (1,)), r"ModelOpt's quantizers"),
}  # fmt: skip
# Not quantized again, but planned as they are: a file next to config.json, or a key, says how.
PLANNED = ("ModelOpt FP8", "GPTQ", "mlx", "nested")


@pytest.fixture
def folder(tmp_path):
    return toy_folder(tmp_path / "model")


def refusal(folder, text, out, **options):
    """The message of the run's refusal, which is --dry-run's and inspect's, and leaves nothing."""
    message = []
    calls = [
        lambda: run(folder, out, text, dry_run=True, **options),
        lambda: run(folder, out, text, **options),
        lambda: options or api.inspect(str(folder)),
    ]
    for call in calls[: 2 if options else 3]:
        with pytest.raises(SalientError) as caught:
            call()
        message.append(str(caught.value))
    assert len(set(message)) == 1
    assert not out.exists()
    assert not out.with_name("out.partial").exists()
    assert "etch" not in message[0]  # the download is never blamed
    return message[0]


@pytest.mark.parametrize("case", FOREIGN)
def test_undeclared_quantization_and_wrapped_models_are_refused(case, folder, text, tmp_path):
    damage, message = FOREIGN[case]
    damage(folder)
    assert re.search(message, refusal(folder, text, tmp_path / "out"))
    if case in PLANNED:
        assert shape_of_folder(folder).quantization
        return
    with pytest.raises(ModelError, match=message):
        shape_of_folder(folder)


def biases(folder):
    model = tiny_model(attention_bias=True)
    save(model, folder)
    rewrite_json(folder / "config.json", attention_bias=False)


def four_blocks(folder):
    save(tiny_model(num_hidden_layers=4), folder)
    rewrite_json(folder / "config.json", num_hidden_layers=2)


def without(name):
    return lambda folder: change(folder, lambda t: t.pop(name))


def renamed_one(name, new):
    return lambda folder: change(folder, lambda t: t.update({new: t.pop(name)}))


LOSSES = {
    "biases": (biases, r"\(8\): '.*_proj\.bias'.*attention_bias.*--drop '.*\*.*k_proj\.bias'"),
    "blocks": (
        four_blocks,
        r"to number 3, .* counts 2: .*num_hidden_layers.*model\.layers\.2\.\*",
    ),
    "head": (
        added("score.weight", (2, 64)),
        r"'score\.weight'.*head of another class.*--drop",
    ),
    "copy": (added("norm.weight"), r"'norm\.weight' and 'model\.norm\.weight' are the same"),
    "q norm": (
        added("model.layers.0.self_attn.q_norm.weight"),
        r"parts of the blocks.*qk_norm",
    ),
}
MISSING = {
    "tensor": (without(UP), rf"has no tensor '{UP}' of the LlamaForCausalLM"),
    "head": (without("lm_head.weight"), r"'lm_head\.weight'.*set tie_word_embeddings to true"),
    "renamed": (renamed_one(UP, UP.replace("up", "upper")), r"It has '.*upper_proj\.weight' ins"),
    "prefix": (renamed(lambda n: f"student.{n}"), r"It has 'student\..*only have 'student\.'"),
    "more blocks": (config(num_hidden_layers=3), r"files have 2 of the 3 blocks.*Correct config"),
    "shape": (config(intermediate_size=128), r"is \[96, 64\] on disk, .* makes it \[128, 64\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", LOSSES)
def test_tensors_without_a_place_in_the_model_are_refused(case, folder, text, tmp_path):
    damage, message = LOSSES[case]
    damage(folder)
    assert re.search(message, refusal(folder, text, tmp_path / "out"))


@pytest.mark.parametrize("case", MISSING)
def test_parameters_that_no_file_has_are_refused(case, folder, text, tmp_path):
    damage, message = MISSING[case]
    damage(folder)
    assert re.search(message, refusal(folder, text, tmp_path / "out"))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str)
def test_parameters_of_no_float_type_are_refused(dtype, folder, text, tmp_path):
    name = "model.norm.weight"
    change(folder, lambda t: t.update({name: t[name].to(dtype)}))
    assert f"'{name}'" in refusal(folder, text, tmp_path / "out")


def test_float64_weights_are_read(folder, text, tmp_path):
    change(folder, lambda t: t.update({UP: t[UP].double()}))
    run(folder, tmp_path / "out", text)


def test_what_drop_names_stands_first_in_report_and_evidence(folder, text, tmp_path):
    biases(folder)
    report = run(folder, tmp_path / "out", text, drop=["q_proj.bias", "*_proj.bias"])
    assert report.lines[0].startswith("Dropped by --drop 'q_proj.bias': 2 tensors of the source")
    assert report.lines[1].startswith("Dropped by --drop '*_proj.bias': 8 tensors")
    evidence = json.loads((tmp_path / "out" / "salient.json").read_text())
    assert sorted(evidence["dropped"]["q_proj.bias"]) == [
        f"model.layers.{i}.self_attn.q_proj.bias" for i in range(2)
    ]
    dry = run(folder, tmp_path / "other", text, drop="*.bias", dry_run=True)
    assert dry.lines[0].startswith("Dropped by --drop '*.bias'")
    assert set(dry.data["dropped"]["*.bias"]) == set(evidence["dropped"]["*_proj.bias"])


def test_evaluate_drops_from_the_reference_what_the_checkpoint_dropped(folder, text, tmp_path):
    biases(folder)
    run(folder, tmp_path / "out", text, drop="*.bias")
    api.evaluate(
        str(tmp_path / "out"),
        reference=str(folder),
        text=[str(text)],
        samples=2,
        sequence_length=64,
    )
    (tmp_path / "out" / "salient.json").unlink()
    with pytest.raises(ModelError, match=r"has no place for \(8\): .*bias"):
        api.evaluate(
            str(tmp_path / "out"),
            reference=str(folder),
            text=[str(text)],
            samples=2,
            sequence_length=64,
        )


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("*.nothing", r"--drop '\*\.nothing' names no tensor"), (UP, r"which the model needs")],
)
def test_a_pattern_that_drops_nothing_is_refused(pattern, message, folder, text, tmp_path):
    with pytest.raises(ModelError, match=message):
        run(folder, tmp_path / "out", text, drop=pattern)


def test_tables_that_every_reader_computes_are_left_out(tmp_path, text):
    folder = toy_folder(tmp_path / "model", "gpt2", **GPT2)
    mask = torch.ones(1, 1, 64, 64).tril()
    change(
        folder,
        lambda t: t.update({f"transformer.h.{i}.attn.bias": mask.clone() for i in range(2)}),
    )
    for name in ("transformer.h.0.attn.masked_bias", "transformer.rotary_emb.inv_freq"):
        added(name)(folder)
    leftovers = open_source_model(folder).leftovers
    assert len(leftovers.harmless) == 4
    assert not leftovers.mtp
    assert not leftovers.dropped


GPT2 = {
    "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "hidden_size": None,
    "num_hidden_layers": None, "num_attention_heads": None, "num_key_value_heads": None,
    "head_dim": None, "max_position_embeddings": None, "intermediate_size": None,
}  # fmt: skip


def test_an_equal_copy_of_a_parameter_is_left_out(folder):
    change(folder, lambda t: t.update({"norm.weight": t["model.norm.weight"].clone()}))
    assert open_source_model(folder).leftovers.harmless == ("norm.weight",)


def test_a_folder_with_an_index_and_another_single_file_is_refused(folder, text, tmp_path):
    """A stale index with its shards next to a newer model.safetensors."""
    save(tiny_model(seed=1), tmp_path / "old", max_shard_size="100KB")
    for path in (tmp_path / "old").glob("model*"):
        path.rename(folder / path.name)
    message = refusal(folder, text, tmp_path / "out")
    assert "model.safetensors.index.json" in message
    assert "model.safetensors (F16" in message
    assert "Keep the files that belong to config.json" in message
    with pytest.raises(ModelError, match=r"stores .* twice"):
        shape_of_folder(folder)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x", r"attention_multiplier"),
        (0.0, r"'model\.layers\.0' .* NaN .*config\.json"),
    ],
)
def test_a_config_that_blocks_cannot_run_with_is_refused(value, message, text, tmp_path):
    folder = toy_folder(tmp_path / "model", "granite")
    rewrite_json(folder / "config.json", attention_multiplier=value)
    for dry_run in (True, False):
        with pytest.raises(ModelError, match=message):
            run(folder, tmp_path / "out", text, dry_run=dry_run)


@pytest.mark.parametrize("options", [{"scheme": "auto"}, {"scheme": "w4-g32"}], ids=str)
def test_one_set_of_patterns_skips_all_linears_that_do_not_fit(options, text, tmp_path):
    folder = toy_folder(tmp_path / "model", intermediate_size=72, num_hidden_layers=3)
    with pytest.raises(ShapeError, match=r"72 input features.*and 2 others") as caught:
        run(folder, tmp_path / "out", text, dry_run=True, **options)
    assert str(caught.value).endswith("unquantized with --skip 'down_proj'.")
    skip = "down_proj"
    run(folder, tmp_path / "out", text, dry_run=True, skip=skip, **options)
