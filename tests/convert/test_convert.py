"""Convert: the same integers in another format, there and back; or a refusal."""

import pytest
import torch

from helpers.rtn_checkpoints import MIXED, rounded_toy
from helpers.toy_models import rewrite_json
from salient import api
from salient.core.content_digest import short_digests
from salient.core.errors import CheckpointError, ShapeError
from salient.core.evidence import find_changed
from salient.core.model_files import read_json, stored_tensors
from salient.formats import FORMATS as FORMATS_TABLE
from salient.formats.checkpoint import open_checkpoint
from salient.formats.writer import write_tensors

FORMATS = ("awq", "compressed-tensors", "gptq")


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """format and scheme -> a checkpoint; written once."""
    cache = {}

    def toy(format, scheme="w4-g32"):
        if (format, scheme) not in cache:
            home = tmp_path_factory.mktemp("toy")
            if format == "gptq":
                api.convert(toy("awq", scheme), home / "gptq", format="gptq")
                cache[format, scheme] = home / "gptq"
            else:
                cache[format, scheme] = rounded_toy(home, format=format, scheme=scheme)
        return cache[format, scheme]

    return toy


@pytest.mark.parametrize("scheme", ["w4-g32", "w4-g32-sym"])
@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_there_and_back_is_byte_equal(source, target, scheme, toys, tmp_path):
    if source == target:
        return
    first = toys(source, scheme)
    there = api.convert(first, tmp_path / "there", format=target).output
    one, other = open_checkpoint(first), open_checkpoint(there)
    assert other.format is FORMATS_TABLE[target]
    for name in one.parameter_names():
        assert torch.equal(one.parameter(name), other.parameter(name)), name
    back = api.convert(there, tmp_path / "back", format=source).output
    for name in one.files:
        assert torch.equal(one.tensor(name), open_checkpoint(back).tensor(name)), name
    if scheme == "w4-g32":
        files = [(folder / "model.safetensors").read_bytes() for folder in (first, back)]
        assert files[0] == files[1]
        assert read_json(first / "config.json") == read_json(back / "config.json")
    assert {p.name for p in there.iterdir()} == {p.name for p in first.iterdir()}


def test_evidence_and_card_are_true_of_the_converted_checkpoint(toy_run, tmp_path):
    out = api.convert(toy_run, tmp_path / "out", format="compressed-tensors").output
    assert find_changed(out).note == ""
    evidence = read_json(out / "salient.json")
    assert evidence["run"]["format"] == "compressed-tensors"
    assert evidence["tensors"] == short_digests(stored_tensors(out).values())
    card = (out / "README.md").read_text()
    assert "Converted from the format awq to compressed-tensors" in card
    assert "- compressed-tensors" in card


@pytest.fixture(scope="module")
def toy_run(toy, text, tmp_path_factory):
    from helpers.runs import run

    out = tmp_path_factory.mktemp("convert") / "toy-w4"
    run(toy, out, text)
    return out


def test_what_is_not_exact_is_refused_and_nothing_is_written(tmp_path):
    mixed = rounded_toy(tmp_path, format="compressed-tensors", own=MIXED)
    for target in ("awq", "gptq"):
        with pytest.raises(ShapeError, match="--format compressed-tensors"):
            api.convert(mixed, tmp_path / "out", format=target)
    toy = rounded_toy(tmp_path / "bf", format="awq")
    checkpoint = open_checkpoint(toy)
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.files}
    name = next(name for name in tensors if name.endswith(".scales"))
    tensors[name][0, 0] = 0.1234
    write_tensors(toy / "model.safetensors", tensors)
    rewrite_json(toy / "config.json", torch_dtype="bfloat16", dtype="bfloat16")
    with pytest.raises(CheckpointError, match=r"scales are not exact in bfloat16"):
        api.convert(toy, tmp_path / "out", format="compressed-tensors")
    with pytest.raises(CheckpointError, match="is of the format awq already"):
        api.convert(toy, tmp_path / "out", format="awq")
    with pytest.raises(CheckpointError, match="Unknown format 'ggml'"):
        api.convert(toy, tmp_path / "out", format="ggml")
    with pytest.raises(CheckpointError, match="it is a 16-bit model"):
        api.convert(tmp_path / "model", tmp_path / "out", format="awq")
    assert not list(tmp_path.glob("out*"))
