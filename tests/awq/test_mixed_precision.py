"""Laws of `--bits-per-weight`: budget, formats that engines can fuse, the same bytes on resume."""

import json

import pytest
import torch

from helpers.runs import contents, logits, run
from helpers.toy_models import save, tiny_model
from salient import api
from salient.awq.format_damage import rounding_damage
from salient.awq.mixed_scheme import MixedScheme, mixed_scheme
from salient.awq.statistics import LinearStats
from salient.core.errors import RequestError, ShapeError
from salient.core.quant import quantize
from salient.core.scheme import Scheme
from salient.formats.checkpoint import open_checkpoint

OPTIONS = {"bits_per_weight": 4.9, "format": "compressed-tensors", "effort": "fast"}


@pytest.fixture(scope="module")
def mixed(toy, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed") / "out"
    run(toy, folder, text, **OPTIONS)
    return folder


def test_the_bits_are_within_the_budget_and_differ_by_linear(mixed):
    evidence = json.loads((mixed / "salient.json").read_text())
    allocation = evidence["allocation"]
    assert 4.6 < allocation["bits_per_weight"] <= 4.9
    assert evidence["bits_per_weight"] == allocation["bits_per_weight"]
    assert len(set(allocation["formats"].values())) > 1
    checkpoint = open_checkpoint(mixed)
    for name, label in allocation["formats"].items():
        codes = checkpoint.quantized(name) if checkpoint.is_quantized(name) else None
        assert (str(codes.scheme) if codes else "16bit") == label


def test_linears_that_read_one_input_have_one_format(mixed):
    formats = json.loads((mixed / "salient.json").read_text())["allocation"]["formats"]
    for layer in (0, 1):
        for part, names in (("self_attn", "qkv"), ("mlp", ("gate", "up"))):
            assert len({formats[f"model.layers.{layer}.{part}.{n}_proj"] for n in names}) == 1


def test_the_damage_predicted_falls_with_the_bits_and_the_checkpoint_runs(mixed, toy):
    allocation = json.loads((mixed / "salient.json").read_text())["allocation"]
    curve, uniform = allocation["curve"], allocation["uniform"]
    assert curve == sorted(curve)
    assert [kl for _, kl in curve] == sorted((kl for _, kl in curve), reverse=True)
    assert uniform["g32"][1] > allocation["predicted_kl"] > uniform["w8"][1] >= 0
    ids = torch.arange(24)[None] % 90
    off = (logits(mixed, ids) - logits(toy, ids)).norm() / logits(toy, ids).norm()
    assert off < 0.4


def test_the_card_has_the_command(mixed):
    card = (mixed / "README.md").read_text()
    assert "--bits-per-weight 4.9 --allow g32,g64,g128,w8,16bit --format compressed-tensors" in card
    assert "quantized to mixed precision" in card


def test_a_resumed_run_has_the_same_formats_and_bytes(mixed, toy, text, tmp_path, monkeypatch):
    calls = 0

    def stop(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    from salient.awq.journal import Journal

    append = Journal.append
    monkeypatch.setattr(Journal, "append", lambda self, line: (append(self, line), stop()))
    with pytest.raises(KeyboardInterrupt):
        run(toy, tmp_path / "out", text, **OPTIONS)
    monkeypatch.undo()
    monkeypatch.setattr(
        "salient.awq.mixed_precision.measured_sets", lambda *_: pytest.fail("measured again")
    )
    run(toy, tmp_path / "out", text, **OPTIONS)
    assert contents(tmp_path / "out") == contents(mixed)


def test_the_experts_of_a_block_have_one_format(text, tmp_path):
    model = save(tiny_model("mixtral"), tmp_path / "model")
    run(
        model,
        tmp_path / "out",
        text,
        **OPTIONS | {"effort": "balanced", "samples": 3, "sequence_length": 64},
    )
    formats = json.loads((tmp_path / "out/salient.json").read_text())["allocation"]["formats"]
    assert {name for name in formats if "experts" in name} == {
        f"model.layers.{layer}.mlp.experts" for layer in (0, 1)
    }
    checkpoint = open_checkpoint(tmp_path / "out")
    label = formats["model.layers.1.mlp.experts"]
    names = [n for n in checkpoint.files if "layers.1." in n and n.endswith(".w1.weight_packed")]
    if label != "16bit":
        for name in names:
            assert str(checkpoint.quantized(name.removesuffix(".weight_packed")).scheme) == label


# What a format costs


def test_the_damage_is_that_of_the_end_loss_by_its_definition():
    generator = torch.Generator().manual_seed(0)
    x, d = torch.randn(500, 32, generator=generator), torch.randn(500, 48, generator=generator)
    weight, scheme, one = torch.randn(48, 32, generator=generator), Scheme(32), torch.ones(32)
    w = d.square().mean(1, keepdim=True)
    stats = LinearStats((x * w).t() @ x, (d.t() @ d,))
    damage = rounding_damage(weight, stats, one, scheme, tokens=500, dtype=torch.float16)
    error = quantize(weight, scheme, name="w").dequantize() - weight
    direct = float(((x @ error.t()) * d).sum(1).square().mean()) / 2
    assert damage == pytest.approx(direct, rel=0.35)  # grids differ, and errors of rows correlate


def test_more_bits_cost_less_and_no_gradients_cost_nothing():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 128, generator=generator)
    stats, one = LinearStats(torch.eye(128), (torch.eye(64),)), torch.ones(128)
    schemes = (Scheme(128), Scheme(64), Scheme(32), Scheme(128, symmetric=True, bits=8))
    damages = [
        rounding_damage(weight, stats, one, s, tokens=1, dtype=torch.float16) for s in schemes
    ]
    assert damages == sorted(damages, reverse=True)
    assert damages[-1] < 0.01 * damages[0]
    plain = LinearStats(torch.eye(128))
    assert rounding_damage(weight, plain, one, Scheme(), tokens=1, dtype=torch.float16) == 0


# Options


def test_only_formats_that_divide_the_inputs_are_offered_and_eight_bits_are_symmetric():
    mixed = MixedScheme(4.5, ("g32", "g64", "g128", "w8", "16bit"))
    assert mixed.formats({"a": 192, "b": 64}) == {
        "g32": Scheme(32),
        "g64": Scheme(64),
        "w8": Scheme(64, symmetric=True, bits=8),
        "16bit": None,
    }
    assert mixed.smallest_group == 32


@pytest.mark.parametrize(
    ("bits", "allow", "format", "message"),
    [
        (4.5, "g32,g48", "compressed-tensors", r"'g48' in --allow\. Known: g128, g64, g32, w8"),
        (4.5, "16bit", "compressed-tensors", "has no format with codes"),
        (4.5, "g32", "awq", "one scheme for all linears.* --format compressed-tensors"),
        (4.2, "g32,w8", "compressed-tensors", r"4\.2 is below 4\.625, the fewest bits"),
    ],
)
def test_options_that_cannot_be_met_are_refused(bits, allow, format, message):
    with pytest.raises((RequestError, ShapeError), match=message):
        mixed_scheme(bits, allow, "w4-g128", format)


def test_a_dry_run_names_the_mixed_scheme(toy, text, tmp_path):
    result = api.quantize(
        toy, tmp_path / "out", samples=6, sequence_length=64, calibration=str(text), dry_run=True,
        **OPTIONS,
    )  # fmt: skip
    assert result.report.data["scheme"] == "mixed-4.9-g32+g64+g128+w8+16bit"
