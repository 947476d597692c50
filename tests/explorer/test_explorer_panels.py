"""The panels show the run's record and the weights' values, or the reason why data are missing."""

import shutil

import pytest
import torch

from helpers.evidence_files import rewrite_evidence
from helpers.explorer_state import explorer_state, measured
from helpers.rtn_checkpoints import rounded_toy
from helpers.runs import run
from helpers.toy_models import toy_folder
from salient.core.errors import ModelError, RequestError
from salient.core.scheme import Scheme
from salient.explorer.panels.group import GroupQuery, group_data
from salient.explorer.panels.linear_view import curve_data, inputs_data, salience_data
from salient.models.skeleton import Skeleton


@pytest.fixture(scope="module")
def checkpoint(toy, text, tmp_path_factory):
    """A checkpoint next to its source."""
    home = tmp_path_factory.mktemp("explored")
    shutil.copytree(toy, home / "model")
    run(home / "model", home / "out", text)
    return home / "out"


@pytest.fixture(scope="module")
def state(checkpoint):
    return measured(explorer_state(checkpoint))


def query(row=0, group=0, scheme=None, clip=1.0, a=0.0, b=0.0):
    return GroupQuery(row, group, scheme or Scheme(32), clip, a, b, torch.float16)


def names(state, block=0):
    return [r["name"] for i in inputs_data(state.viewer, block)["inputs"] for r in i["readers"]]


def test_the_overview_shows_what_the_run_recorded(state, checkpoint):
    data = state.overview()
    assert data["made_from"] == "model"
    assert data["source"].startswith("model, the model this checkpoint was made from")
    assert [b["name"] for b in data["evidence"]["blocks"]] == data["blocks"]
    kinds = [kind["awq"] for kind in data["evidence"]["kinds"]]
    assert kinds == sorted(kinds, reverse=True)
    assert len(data["evidence"]["kinds"]) == 7
    assert data["progress"]["words"] == "384 tokens of the checkpoint's own calibration texts"


def test_the_inputs_of_a_block_have_each_linear_once_with_its_exponents(state):
    entries = state.evidence.blocks
    for block, entry in enumerate(entries):
        inputs = inputs_data(state.viewer, block)
        assert inputs["why"] == ""
        assert sorted(names(state, block)) == sorted(state.viewer.layers.shapes(block))
        noted = {g.readers[0]: g.exponents[0] for g in entry.groups}
        for each in inputs["inputs"]:
            assert each["exponents"] == noted[each["readers"][0]["name"]]


def test_salience_is_the_sorted_mean_size_of_the_input(state):
    view = state.viewer.view(1, "mlp.up_proj")
    data = salience_data(view)
    assert data["values"] == sorted(data["values"], reverse=True)
    mean = view.tokens.abs().mean(0)
    hidden = torch.finfo(torch.bfloat16).eps  # the dtype of stored hidden states
    assert data["largest"] == pytest.approx(float(mean.max()), rel=hidden)
    assert data["top"][0]["channel"] == int(mean.argmax())
    assert data["channels"] == len(data["values"]) == 64


def test_the_curve_has_the_chosen_point_and_plain_rounding(state):
    for name in names(state):
        view = state.viewer.view(0, name)
        data = curve_data(state.viewer, view, state.scheme, state.dtype)
        assert data["chosen"]["b"] == data["b"] == view.chosen.exponents[1]
        if view.chosen.scaled:
            assert data["chosen"]["error"] < 1.1 * data["plain"]
        on_line = {p["a"]: p["error"] for p in data["activations"]}
        assert on_line[data["chosen"]["a"]] == data["chosen"]["error"]


def test_a_layers_error_as_written_is_near_the_recorded_one(state):
    """On other tokens, and with scales that are fitted to the codes."""
    for block, entry in enumerate(state.evidence.blocks):
        for group in entry.groups:
            for name, noted in group.layers.items():
                data = group_data(state.viewer, state.viewer.view(block, name), query())
                errors = data["errors"]
                assert errors["written"]["layer"] == pytest.approx(noted.awq, rel=0.5)
                assert errors["plain"]["layer"] == pytest.approx(noted.plain, rel=0.5)


def test_the_fitted_scale_is_divided_out_of_the_norm(state, checkpoint):
    view = state.viewer.view(0, "mlp.gate_proj")
    assert view.chosen.scaled
    skeletons = (state.viewer.layers.source, state.viewer.layers.checkpoint)
    name = f"{skeletons[0].blocks[0]}.post_attention_layernorm.weight"
    old, new = (skeleton.files.read(name).float() for skeleton in skeletons)
    torch.testing.assert_close(view.folded.columns, old / new, rtol=0.05, atol=0)


def test_sliders_at_rest_are_plain_rounding_and_more_bits_lose_less(state):
    view = state.viewer.view(0, "self_attn.q_proj")
    data = group_data(state.viewer, view, query(row=3, group=1))
    assert data["values"]["now"] == data["values"]["plain"]
    assert data["errors"]["now"] == data["errors"]["plain"]
    lost = [
        group_data(state.viewer, view, query(3, 1, Scheme(32, bits=bits)))["errors"]["now"]
        for bits in range(2, 9)
    ]
    for kind in ("output", "layer"):
        assert lost[-1][kind] < lost[2][kind] < lost[0][kind]


def test_a_group_shows_the_models_own_weights_and_the_checkpoints_own_codes(state):
    view = state.viewer.view(1, "mlp.down_proj")
    data = group_data(state.viewer, view, query(row=5, group=2))
    source, layers = state.viewer.layers.source, state.viewer.layers
    weight = source.files.read(f"{source.blocks[1]}.mlp.down_proj.weight")
    assert data["weights"] == weight[5, 64:96].float().tolist()
    codes = layers.linear(1, "mlp.down_proj").written.codes
    assert data["written_codes"] == codes[5, 64:96].tolist()
    assert (data["groups"], data["sizes"]) == (3, [16, 32])


def test_a_panel_shown_before_the_pass_has_its_errors_afterwards(checkpoint):
    state = measured(explorer_state(checkpoint))
    passed, state.calibration.blocks = state.calibration.blocks, []
    view = state.viewer.view(1, "mlp.up_proj")
    assert view.why == "The pass of calibration tokens has reached block 0 of 2."
    early = group_data(state.viewer, view, query())["errors"]
    assert [errors["layer"] for errors in early.values()] == [None, None]
    state.calibration.blocks = passed
    late = group_data(state.viewer, state.viewer.view(1, "mlp.up_proj"), query())["errors"]
    assert len(late) == 3
    assert all(errors["layer"] > 0 for errors in late.values())


@pytest.mark.parametrize(
    ("block", "name", "changes", "message"),
    [
        (2, "mlp.up_proj", {}, "There is no block 2: the model has 2, from 0."),
        (0, "mlp.nothing", {}, "Block 0 has no linear 'mlp.nothing'. It has self_attn.q_proj"),
        (0, "mlp.up_proj", {"row": 96}, "There is no row 96: there are 96, from 0."),
        (0, "mlp.up_proj", {"group": 2}, "There is no group 2: there are 2, from 0."),
        (0, "mlp.up_proj", {"scheme": Scheme(48)}, "A group size of 48 does not divide the 64"),
    ],
)
def test_unknown_blocks_layers_and_groups_are_refused(state, block, name, changes, message):
    with pytest.raises(RequestError, match=message.replace(".", r"\.")):
        group_data(state.viewer, state.viewer.view(block, name), query(**changes))


# What is missing


def test_without_a_source_the_weights_are_the_dequantized_codes(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "alone")
    state = measured(explorer_state(tmp_path / "alone"))
    data = state.overview()
    assert (
        "The 16-bit model 'model' that this checkpoint was made from is not next to it"
        in (data["no_source"])
    )
    assert "`--reference MODEL`" in data["no_source"]
    view = state.viewer.view(0, "mlp.up_proj")
    group = group_data(state.viewer, view, query(row=1))
    written = state.viewer.layers.linear(0, "mlp.up_proj").written
    assert group["weights"] == written.dequantize()[1, :32].tolist()
    assert group["why"] == data["no_source"]
    assert group["errors"]["now"]["layer"] is None
    assert salience_data(view) == {"why": data["no_source"]}
    assert curve_data(state.viewer, view, state.scheme, state.dtype) == {"why": data["no_source"]}
    assert len(names(state)) == 7


def test_a_checkpoint_of_another_tool_works_with_a_reference(tmp_path):
    folder = rounded_toy(tmp_path)
    state = measured(explorer_state(folder, tmp_path / "model"))
    data = state.overview()
    assert data["evidence"] is None
    assert "This checkpoint has no salient.json: another tool wrote it" in data["no_evidence"]
    assert data["source"] == "full, the reference"
    view = state.viewer.view(0, "mlp.up_proj")
    errors = group_data(state.viewer, view, query())["errors"]
    assert errors["written"]["layer"] == pytest.approx(errors["plain"]["layer"], rel=0.05)
    assert curve_data(state.viewer, view, state.scheme, state.dtype)["chosen"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": 3}, "salient.json is not as Salient writes it: run is int, not dict"),
        ({"blocks": [{"block": "x"}]}, "blocks.0.error_plain is missing"),
    ],
)
def test_a_broken_salient_json_is_reported_and_the_rest_works(
    change, message, checkpoint, tmp_path
):
    shutil.copytree(checkpoint, tmp_path / "out")
    rewrite_evidence(tmp_path / "out", **change)
    state = measured(explorer_state(tmp_path / "out"))
    assert message in state.overview()["no_evidence"]
    assert group_data(state.viewer, state.viewer.view(0, "mlp.up_proj"), query())["weights"]


def test_a_name_in_salient_json_cannot_leave_the_folder(checkpoint, tmp_path, toy):
    shutil.copytree(checkpoint, tmp_path / "a" / "b" / "out")
    shutil.copytree(toy, tmp_path / "model")
    rewrite_evidence(tmp_path / "a" / "b" / "out", model="../../model")
    assert isinstance(explorer_state(tmp_path / "a" / "b" / "out").source, str)


def test_another_model_of_the_same_name_is_not_the_source(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "out")
    toy_folder(tmp_path / "model", seed=5)
    assert isinstance(explorer_state(tmp_path / "out").source, str)
    named = explorer_state(tmp_path / "out", tmp_path / "model").source
    assert "is not byte for byte the model" in named.remark


def test_a_16_bit_model_is_its_own_source(toy):
    state = measured(explorer_state(toy))
    assert state.overview()["source"] == "toy, which is a 16-bit model itself"
    data = group_data(state.viewer, state.viewer.view(0, "mlp.up_proj"), query())
    assert "written" not in data["errors"]
    assert data["errors"]["now"]["layer"] > 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("secret words"), "The pass failed; the server's log says why."),
        (ModelError("{} cannot be run block by block"), "model cannot be run block by block"),
    ],
)
def test_a_failed_pass_is_reported_without_paths(error, message, checkpoint, monkeypatch):
    def broken(*_):
        raise type(error)(str(error).format(checkpoint.parent / "model"))

    monkeypatch.setattr(Skeleton, "calls", broken)
    state = measured(explorer_state(checkpoint))
    assert state.progress["state"] == "failed"
    assert state.viewer.view(0, "mlp.up_proj").why == message


def test_experts_are_shown_one_by_one(tmp_path):
    folder = rounded_toy(tmp_path, "mixtral")
    state = measured(explorer_state(folder, tmp_path / "model"))
    inputs = inputs_data(state.viewer, 0)["inputs"]
    experts = [i for i in inputs if "experts" in i["readers"][0]["name"]]
    assert len(experts) == 2 * state.served.loaded.model.config.num_local_experts
    assert {i["tokens"] for i in experts} != {1024}
    for each in experts:
        data = group_data(state.viewer, state.viewer.view(0, each["readers"][0]["name"]), query())
        if each["tokens"]:
            errors = data["errors"]
            assert errors["written"]["layer"] == pytest.approx(errors["plain"]["layer"], rel=0.1)


def test_no_pass_starts_without_enough_memory(checkpoint, monkeypatch):
    monkeypatch.setattr("salient.explorer.calibration_pass.available_memory", lambda: 1000)
    state = measured(explorer_state(checkpoint))
    assert state.progress["state"] == "failed"
    assert "GiB are free. Use a larger machine." in state.progress["words"]


def test_memory_is_shown_by_part_without_paths(state, checkpoint):
    data = state.running()
    assert {part["name"] for part in data["parts"]} >= {"weights", "keys and values"}
    assert all(part["bytes"] >= 0 for part in data["parts"])
    assert str(checkpoint.parent) not in str(data)
