"""Configs of absurd sizes: every verb refuses them at once, before a library builds anything."""

import time

import pytest

from helpers.toy_models import rewrite_json, toy_folder
from salient import api
from salient.core.errors import ModelError
from salient.core.model_files import stored_tensors
from salient.shapes.config_bounds import LAYERS_AT_LEAST, check_bounds

ABSURD = [
    ({"num_hidden_layers": 10**9}, r"num_hidden_layers is 1000000000, .* from 1 to \d+ fits"),
    ({"num_hidden_layers": 10**5}, r"num_hidden_layers is 100000, "),
    ({"num_hidden_layers": 9999}, r"num_hidden_layers is 9999, .*the files hold 21 tensors"),
    ({"num_attention_heads": 10**9}, r"num_attention_heads is 1000000000, "),
    ({"num_attention_heads": 10**9, "head_dim": None}, r"num_attention_heads is 1000000000, "),
    ({"num_key_value_heads": 10**7}, r"num_key_value_heads is 10000000, "),
    ({"num_local_experts": 10**8}, r"num_local_experts is 100000000, "),
    ({"hidden_size": 10**12}, r"hidden_size is 1000000000000, .* to 1000000000 fits\. Correct"),
    ({"vision_config": {"depth": 10**7}}, r"vision_config\.depth is 10000000, "),
    ({"depths": [2, 10**8]}, r"depths is \[2, 100000000\], "),
    ({"layer_types": ["full_attention"] * 200_000}, r"layer_types has 200000 values"),
    ({"architectures": ["A" * 200_000]}, r"architectures has a text of 200000 letters"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), ABSURD)
def test_every_verb_refuses_at_once(changes, message, text, tmp_path):
    folder = toy_folder(tmp_path / "model")
    rewrite_json(folder / "config.json", **changes)
    small = {"samples": 6, "sequence_length": 64}
    options = {"scheme": "w4-g32", "calibration": str(text), **small}
    verbs = {
        "quantize": lambda: api.quantize(folder, tmp_path / "out", **options),
        "dry run": lambda: api.quantize(folder, tmp_path / "out", dry_run=True, **options),
        "inspect": lambda: api.inspect(folder),
        "generate": lambda: api.generate(folder, ["a"], max_new_tokens=2),
        "evaluate": lambda: api.evaluate(folder, reference=folder, text=[str(text)], **small),
        "load": lambda: api.load(folder),
        "engine": lambda: api.load_engine(folder),  # that of serve, chat and bench
    }
    for name, verb in verbs.items():
        started = time.monotonic()
        with pytest.raises(ModelError, match=message):
            verb()
        assert time.monotonic() - started < 5, name
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(("changes", "message"), ABSURD)
def test_plan_refuses_by_the_same_check(changes, message, tmp_path):
    folder = toy_folder(tmp_path / "model")
    rewrite_json(folder / "config.json", **changes)
    with pytest.raises(ModelError, match="9999" if "9999" in message else message):
        api.plan(folder)


def test_tables_that_fill_the_memory_are_refused_by_name(tmp_path):
    sizes = {"num_hidden_layers": None, "num_attention_heads": None, "num_key_value_heads": None}
    sizes |= {"head_dim": None, "intermediate_size": None, "num_layers": 2, "num_heads": 4}
    kinds = [[["global", "local"], 1]]
    folder = toy_folder(tmp_path / "model", "gpt_neo", attention_types=kinds, **sizes)
    api.inspect(folder)
    rewrite_json(folder / "config.json", max_position_embeddings=10**6)
    message = r"take \d+\.\d+ GiB, .* 'transformer\.h\.0\.attn\.attention\.bias' of GPTNeo.*max_pos"
    with pytest.raises(ModelError, match=message):
        api.inspect(folder)


def test_a_small_model_may_have_the_usual_counts(toy):
    tensors = stored_tensors(toy)
    check_bounds({"num_hidden_layers": LAYERS_AT_LEAST, "num_experts": 512}, "", tensors)
    with pytest.raises(ModelError, match=r"from 1 to 256 fits"):
        check_bounds({"num_hidden_layers": LAYERS_AT_LEAST + 1}, "", tensors)


def test_sections_in_each_other_end(toy):
    config: dict[str, object] = {}
    for _ in range(500):
        config = {"text_config": config}
    with pytest.raises(ModelError, match="more than 32 sections in each other"):
        check_bounds(config)
