"""Shapes of released models, compared with what their makers published.

Totals are `metadata.total_size` of each repository's model.safetensors.index.json over the bytes of
a parameter, or the parameter count that the Hub shows of it, unless `source` says otherwise.
"""

import json
from dataclasses import dataclass
from importlib.resources import files

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from salient.shapes.from_config import read_shape
from salient.shapes.model_shape import ModelShape

CONFIGS = files("salient.shapes") / "configs"


@dataclass(frozen=True)
class Published:
    """A released model.

    total: parameters; exact: whether the published number is
    active: those a token passes, 0 where all are; without_embedding: the maker leaves it out
    token: bytes of the 16-bit cache that one more token takes: blocks * values * 2
    """

    id: str
    total: float
    token: int
    exact: bool = True
    active: float = 0
    without_embedding: bool = False
    source: str = "the Hub's count of its safetensors"


RELEASED = (
    Published("meta-llama/Llama-3.1-8B", 8_030_261_248, 32 * (2 * 8 * 128) * 2),
    Published("meta-llama/Llama-3.1-70B", 70_553_706_496, 80 * (2 * 8 * 128) * 2),
    Published("Qwen/Qwen2.5-14B", 14_770_033_664, 48 * (2 * 8 * 128) * 2),
    Published("Qwen/Qwen3-8B", 8_190_735_360, 36 * (2 * 8 * 128) * 2),
    Published(
        "Qwen/Qwen3-30B-A3B", 30_532_122_624, 48 * (2 * 4 * 128) * 2, active=3.3e9,
        source="the Hub's count; active: its model card",
    ),
    Published(
        "mistralai/Mistral-Small-24B-Instruct-2501", 23_572_403_200, 40 * (2 * 8 * 128) * 2
    ),
    Published(
        "mistralai/Mixtral-8x7B-v0.1", 46_702_792_704, 32 * (2 * 8 * 128) * 2, active=12.9e9,
        source="the Hub's count; active: mistral.ai/news/mixtral-of-experts",
    ),
    Published(
        "deepseek-ai/DeepSeek-V3", 671e9, 61 * (512 + 64) * 2, exact=False, active=37e9,
        source="arXiv 2412.19437, abstract; the layer for multi-token prediction is not counted",
    ),
    Published("google/gemma-3-27b-it", 27_432_406_640, 62 * (2 * 16 * 128) * 2),
    Published("microsoft/phi-4", 14_659_507_200, 40 * (2 * 10 * 128) * 2),
    Published(
        "openai/gpt-oss-20b", 20_914_757_184, 24 * (2 * 8 * 64) * 2, active=3.61e9,
        without_embedding=True, source="arXiv 2508.10925, table 1: total 20.91 B, active 3.61 B",
    ),
    Published("HuggingFaceTB/SmolLM2-135M", 134_515_008, 30 * (2 * 3 * 64) * 2),
)  # fmt: skip
each_released = pytest.mark.parametrize("row", RELEASED, ids=lambda row: row.id)


def config_of(row: Published) -> dict:
    return json.loads((CONFIGS / f"{row.id.replace('/', '--')}.json").read_text())


def shape_of(row: Published) -> ModelShape:
    return read_shape(config_of(row))


def test_every_shipped_config_is_compared_with_a_published_number():
    shipped = {path.name for path in CONFIGS.iterdir() if path.name.endswith(".json")}
    assert shipped == {f"{row.id.replace('/', '--')}.json" for row in RELEASED}


@each_released
def test_the_total_is_the_published_one(row):
    assert shape_of(row).parameters == pytest.approx(row.total, rel=0 if row.exact else 0.005)


@each_released
def test_the_active_parameters_are_the_published_ones(row):
    shape = shape_of(row)
    active = shape.active_parameters - (shape.embedding if row.without_embedding else 0)
    expected = row.active or row.total - sum(shape.towers.values())
    assert active == pytest.approx(expected, rel=0.03)


@each_released
def test_a_token_takes_the_published_cache(row):
    assert shape_of(row).values_per_token * 2 == row.token


@pytest.mark.parametrize(
    ("row", "window", "sliding", "blocks"),
    [(RELEASED[8], 1024, 52, 62), (RELEASED[10], 128, 12, 24)],
)
def test_most_blocks_with_a_window_cache_no_more_tokens_than_it(row, window, sliding, blocks):
    """Gemma 3: five local blocks to a global one, arXiv 2503.19786; gpt-oss: every other one."""
    windows = [block.cache.window for block in shape_of(row).blocks]
    assert (windows.count(window), len(windows)) == (sliding, blocks)


@each_released
def test_the_shape_is_that_of_transformers_class_to_the_last_parameter(row):
    config = {key: v for key, v in config_of(row).items() if key != "quantization_config"}
    code = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
    with torch.device("meta"):
        model = code.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    corrections = (b for n, b in model.named_buffers() if n.endswith("e_score_correction_bias"))
    expected = sum(p.numel() for p in (*model.parameters(), *corrections))
    shape = shape_of(row)
    assert shape.parameters == expected
    assert shape.tied == (model.get_input_embeddings().weight is model.lm_head.weight)
