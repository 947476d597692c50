"""Whatever a config, an index or a header says, the check answers or refuses in words."""

import json
import random
from copy import deepcopy

import pytest

from helpers.faults import copied, rewrite_header, shard, write_config
from helpers.rtn_checkpoints import rounded_toy
from salient.core.errors import SalientError
from salient.core.model_files import INDEX, SINGLE, read_json
from salient.diagnose.checkpoint.check import read_checkpoint
from salient.diagnose.checkpoint.companion_files import GENERATION

VALUES = (
    *(None, True, False, 0, -1, 1, 2**70, 1.5, float("nan")),
    *("", "x", "4", "re:(", "awq", "compressed-tensors", "gptq"),
    *([], [1], ["a"], [None], [[]], {}, {"a": 1}, {"weights": 5}, [{"a": []}]),
)
NAMES = ("", ".qweight", "a..0.b", "qweight", "model.layers.9.x.qweight", "9.9.qzeros", "0")
TYPES = ("I32", "F16", "F32", "I16", "U8", "X", None, 3, "BF16", "F64", "I64")


@pytest.fixture(scope="module", params=["awq", "compressed-tensors"])
def good(request, tmp_path_factory):
    return rounded_toy(tmp_path_factory.mktemp("good"), "qwen3_moe", format=request.param)


def spots(value, path=()):
    """Paths to everything inside a JSON value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, one in value.items():
            yield from spots(one, (*path, key))
    elif isinstance(value, list):
        for index, one in enumerate(value[:4]):
            yield from spots(one, (*path, index))


def mutate(value, rng):
    """Replace or remove one to three things inside."""
    for _ in range(rng.randint(1, 3)):
        *above, last = rng.choice(list(spots(value)) or [("made",)])
        parent = value
        for key in above:
            parent = parent[key]
        if isinstance(parent, dict) and rng.random() < 0.2:
            del parent[last]
        else:
            parent[last] = deepcopy(rng.choice(VALUES))


def mutate_header(header, rng):
    for _ in range(3):
        name = rng.choice([n for n in header if n != "__metadata__"])
        row, what = header[name], rng.choice(("name", "dtype", "shape", "gone", "place", "row"))
        if not isinstance(row, dict) or what == "row":
            header[name] = deepcopy(rng.choice(VALUES))
        elif what == "name":
            header[rng.choice((*NAMES, f"{name}.scales"))] = header.pop(name)
        elif what == "dtype":
            row["dtype"] = rng.choice(TYPES)
        elif what == "shape":
            shape = row.get("shape")
            shape = shape if isinstance(shape, list) else []
            row["shape"] = rng.choice((shape[::-1], [], [1, *shape], shape[:1], rng.choice(VALUES)))
        elif what == "gone":
            del header[name]
        else:
            row["data_offsets"] = rng.choice(([0, 0], [0, 10**9], 5, [4, 8]))


def answered(folder):
    """Whether the check answered, in words that can be written as JSON."""
    try:
        reading = read_checkpoint(folder)
    except SalientError:
        return False
    json.dumps([vars(f) for f in reading.findings], default=vars)
    return True


@pytest.mark.parametrize("part", ["config", "settings"])
def test_no_config_breaks_the_check(good, tmp_path, part):
    toy = copied(good, tmp_path / "toy")
    source = read_json(toy / "config.json")
    for seed in range(30):
        config = json.loads(json.dumps(source))
        mutate(config if part == "config" else config["quantization_config"], random.Random(seed))
        write_config(toy, config)
        assert answered(toy), seed


def test_no_index_breaks_the_check(good, tmp_path):
    toy = copied(good, tmp_path / "toy")
    shard(toy, lambda name: hash_of(name) % 2 == 0)
    source = (toy / INDEX).read_text()
    answers = []
    for seed in range(30):
        index = json.loads(source)
        mutate(index, random.Random(seed))
        (toy / INDEX).write_text(json.dumps(index))
        answers.append(answered(toy))
    assert any(answers)


def hash_of(name):
    return sum(name.encode())


def test_no_header_breaks_the_check(good, tmp_path):
    toy = copied(good, tmp_path / "toy")
    data = (toy / SINGLE).read_bytes()
    answers = []
    for seed in range(40):
        (toy / SINGLE).write_bytes(data)
        rewrite_header(toy / SINGLE, lambda header, s=seed: mutate_header(header, random.Random(s)))
        answers.append(answered(toy))
    assert True in answers
    assert False in answers


def test_no_damage_of_bytes_breaks_the_check(good, tmp_path):
    toy = copied(good, tmp_path / "toy")
    data = (toy / SINGLE).read_bytes()
    for seed in range(40):
        rng = random.Random(seed)
        damaged = bytearray(data)
        start = rng.randrange(len(data))
        length = rng.choice((1, 8, 500, len(data)))
        damaged[start : start + length] = rng.randbytes(len(damaged[start : start + length]))
        (toy / SINGLE).write_bytes(damaged[: rng.choice((len(data), start + 9))])
        answered(toy)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", GENERATION])
def test_no_companion_breaks_the_check(name, good, tmp_path):
    toy = copied(good, tmp_path / "toy")
    source = read_json(toy / name)
    for seed in range(8):
        value = json.loads(json.dumps(source))
        mutate(value, random.Random(seed))
        (toy / name).write_text(json.dumps(value))
        assert answered(toy), seed
