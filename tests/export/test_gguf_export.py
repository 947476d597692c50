"""Export to GGUF: what is written is the checkpoint, whatever the template's types."""

import re
import shutil
from typing import Any, cast

import gguf
import pytest
import torch

from helpers.families import FAMILIES, MOE
from helpers.gguf_templates import converted, tensors_in, write_template
from helpers.rtn_checkpoints import MIXED, rounded
from helpers.toy_models import rewrite_json, save, tiny_model
from salient import api
from salient.core.errors import (
    CheckpointError,
    MissingExtra,
    ModelError,
    RequestError,
    ResourceError,
)
from salient.export import gguf_export
from salient.formats.checkpoint import open_checkpoint

SIZES: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 32,         "intermediate_size": 192}  # fmt: skip


def tensor_rows(result: api.ExportResult) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", result.report.data["tensors"])


def folded(model):
    """`model` with AWQ's scales folded into norms and their readers."""
    for number, layer in enumerate(model.model.layers):
        random = torch.Generator().manual_seed(number)
        offset = 1 if "Gemma" in type(model).__name__ else 0
        inputs = (
            (layer.input_layernorm, [layer.self_attn.q_proj, layer.self_attn.k_proj,
                                     layer.self_attn.v_proj]),
            (layer.post_attention_layernorm, [layer.mlp.gate_proj, layer.mlp.up_proj]),
        )  # fmt: skip
        for norm, readers in inputs:
            scale = 2 ** (2 * torch.rand(len(norm.weight), generator=random) - 1)
            norm.weight.data = (norm.weight.data + offset) / scale - offset
            for reader in readers:
                reader.weight.data *= scale
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """kind -> 16-bit folder, quantized folder with folded scales, template; made once."""
    cache = {}

    def make(kind, scheme="w4-g32"):
        if (kind, scheme) not in cache:
            home = tmp_path_factory.mktemp(kind)
            changes: dict[str, Any] = {**FAMILIES[kind].changes, **SIZES} | (
                MOE if "moe" in kind else {}
            )
            model = tiny_model(kind, **changes)
            source = save(model, home / "model")
            if "moe" not in kind:
                folded(model)
            out = rounded(save(model, home / "folded", torch.float32), home / "q", scheme=scheme)
            cache[kind, scheme] = source, out, write_template(source, home / "template.gguf")
        return cache[kind, scheme]

    return make


@pytest.mark.parametrize("scheme", ["w4-g32", "w4-g64", "w4-g32-sym"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma", "qwen3_moe"])
def test_the_file_has_the_checkpoints_weights(kind, scheme, models, tmp_path):
    if kind != "llama" and scheme != "w4-g32":
        pytest.skip("one family has all schemes")
    _, checkpoint, template = models(kind, scheme)
    out = tmp_path / "out.gguf"
    result = api.export(checkpoint, out, template=template)
    source = open_checkpoint(checkpoint)
    written, expected = tensors_in(out), {}
    worst = {row["name"]: row["worst_error_absolute"] for row in tensor_rows(result)}
    architecture = str(result.report.data["architecture"])
    kinds = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], 2)
    for parameter in source.parameter_names():
        home = names.get_name(re.sub(r"experts\.\d+", "experts", parameter), (".weight", ".bias"))
        value = converted(parameter, source.parameter(parameter).float(), source.config)
        expected.setdefault(home, []).append(value)
    assert written.keys() >= expected.keys()
    for name, parts in expected.items():
        value = torch.stack(parts) if "exps" in name else parts[0]
        error = float((written[name] - value).abs().max())
        assert error <= 1.01 * worst[name] + 1e-6, name
    kind_of = {row["name"]: row["type"] for row in tensor_rows(result)}
    linears = {
        k for n, k in kind_of.items() if re.search(r"attn_(q|v|output)\.w|ffn_.*(up|down)", n)
    }
    assert linears == {"Q4_0" if scheme.endswith("sym") else "Q4_1"}
    assert max(row["worst_error_steps"] for row in tensor_rows(result)) < 2e-2


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q4_0"])
def test_a_template_may_have_any_type(kind, models, tmp_path):
    source, checkpoint, _ = models("llama")
    template = write_template(source, tmp_path / "t.gguf", kind)
    result = api.export(checkpoint, tmp_path / "out.gguf", template=template)
    rows = {row["name"]: row for row in tensor_rows(result)}
    assert rows["blk.1.attn_q.weight"]["rows"] == "rotary pairs of 4 heads"
    assert rows["blk.1.attn_k.weight"]["rows"] == "rotary pairs of 2 heads"
    assert rows["blk.1.attn_v.weight"]["rows"] == "as they are"
    assert rows["token_embd.weight"]["type"] == ("Q8_0" if kind == "Q4_0" else kind)


def test_a_template_of_another_model_is_refused_and_nothing_is_written(models, tmp_path):
    _, checkpoint, _ = models("llama")
    other = save(tiny_model("llama", seed=5, **SIZES), tmp_path / "other")
    template = write_template(other, tmp_path / "t.gguf")
    with pytest.raises(ModelError, match=r"of another model: its '[a-z_.]+' agrees with no order"):
        api.export(checkpoint, tmp_path / "out.gguf", template=template)
    smaller = save(tiny_model("llama", **SIZES | {"intermediate_size": 160}), tmp_path / "small")
    template = write_template(smaller, tmp_path / "s.gguf")
    with pytest.raises(ModelError, match=r"of another model"):
        api.export(checkpoint, tmp_path / "out.gguf", template=template)
    _, other_kind, _ = models("qwen2")
    with pytest.raises(ModelError, match=r"of another model, or stores it in another way: it has"):
        api.export(other_kind, tmp_path / "out.gguf", template=models("llama")[2])
    assert not list(tmp_path.glob("out*"))


def test_metadata_that_contradict_the_config_are_refused(models, tmp_path):
    source, checkpoint, _ = models("llama")
    template = write_template(source, tmp_path / "t.gguf", "F16", **{"attention.head_count": 8})
    with pytest.raises(ModelError, match=r"llama.attention.head_count is 8, config.json has 4"):
        api.export(checkpoint, tmp_path / "out.gguf", template=template)


def test_a_damaged_template_and_bad_outputs_are_refused(models, tmp_path, monkeypatch):
    _, checkpoint, template = models("llama")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(template.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot be read as GGUF"):
        api.export(checkpoint, tmp_path / "out.gguf", template=broken)
    with pytest.raises(RequestError, match="needs --template"):
        api.export(checkpoint, tmp_path / "out.gguf")
    with pytest.raises(RequestError, match=r"does not end with .gguf"):
        api.export(checkpoint, tmp_path / "out", template=template)
    with pytest.raises(RequestError, match=r"exists\. Remove it"):
        api.export(checkpoint, broken, template=template)
    with pytest.raises(RequestError, match="is no folder"):
        api.export(checkpoint, tmp_path / "none" / "out.gguf", template=template)
    with pytest.raises(CheckpointError, match="is a 16-bit model"):
        api.export(models("llama")[0], tmp_path / "out.gguf", template=template)
    monkeypatch.setattr(gguf_export.shutil, "disk_usage", lambda _: type("", (), {"free": 10}))
    with pytest.raises(ResourceError, match="its disk has 10 B free"):
        api.export(checkpoint, tmp_path / "out.gguf", template=template)


def test_onnx_names_the_builder(models):
    with pytest.raises(RequestError, match=r"onnxruntime_genai.models.builder -i .*/q -o OUT"):
        api.export(models("llama")[1], to="onnx")


def test_a_converter_on_path_makes_the_template(models, tmp_path, monkeypatch):
    source, checkpoint, template = models("llama")
    program = tmp_path / "convert_hf_to_gguf.py"
    program.write_text(
        f'#!/bin/sh\nwhile [ "$1" != --outfile ]; do shift; done\ncp {template} $2\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    result = api.export(checkpoint, tmp_path / "out.gguf", template=source)
    assert result.output.is_file()
    program.write_text("#!/bin/sh\necho no such model >&2; exit 3\n")
    with pytest.raises(ModelError, match=r"exit code 3: no such model"):
        api.export(checkpoint, tmp_path / "o.gguf", template=source)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(MissingExtra, match="it is not on"):
        api.export(checkpoint, tmp_path / "o.gguf", template=source)


def test_mixed_schemes_and_unquantized_linears_are_written(models, tmp_path):
    source, _, template = models("llama")
    checkpoint = rounded(
        source, tmp_path / "q", format="compressed-tensors", skip=("*layers.1.mlp.gate_proj",),
        own=MIXED,
    )  # fmt: skip
    result = api.export(checkpoint, tmp_path / "out.gguf", template=template)
    kinds = {row["name"]: row["type"] for row in tensor_rows(result)}
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert kinds["blk.1.ffn_gate.weight"] == "F16"
    assert kinds["blk.1.attn_output.weight"] == "Q4_1"
    exact = open_checkpoint(checkpoint).parameter("model.layers.0.mlp.down_proj.weight")
    assert torch.equal(tensors_in(tmp_path / "out.gguf")["blk.0.ffn_down.weight"], exact)


def test_a_changed_tokenizer_is_refused(models, tmp_path):
    _, checkpoint, template = models("llama")
    changed = shutil.copytree(checkpoint, tmp_path / "q")
    rewrite_json(changed / "tokenizer.json", added_tokens=[
        {"id": i, "content": f"<{i}>"} for i in range(50)])  # fmt: skip
    with pytest.raises(ModelError, match=r"another tokenizer: \d+ of \d+ tokens differ"):
        api.export(changed, tmp_path / "out.gguf", template=template)
