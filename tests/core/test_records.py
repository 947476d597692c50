"""Records: what is written is read back, and what is not a record is refused by its field."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from salient.core.records import Bounds, Count, FormatFault, from_json, to_json


@dataclass(frozen=True)
class Leaf:
    name: str
    loss: Annotated[float, Bounds(0)]
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    pair: tuple[float, float]
    count: Count = 0
    by_name: dict[str, Leaf | None] | None = None
    done: bool = False


LEAVES = (Leaf("x", 0.5), Leaf("y", 2, "b"))
TREE = Tree(LEAVES, (0.0, -1.5), 3, {"z": Leaf("z", 0), "w": None}, done=True)


def test_a_record_is_read_back_equal():
    assert from_json(Tree, to_json(TREE)) == TREE


def test_json_has_the_fields_in_order_and_no_tuples():
    data = to_json(TREE)
    assert list(data) == ["leaves", "pair", "count", "by_name", "done"]
    assert data["pair"] == [0.0, -1.5]
    assert type(data["leaves"]) is list


def test_defaults_may_be_absent_and_unknown_keys_are_ignored():
    data = {"leaves": [], "pair": [1, 2], "new_in_the_next_release": 1}
    assert from_json(Tree, data) == Tree((), (1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leaves": [{"name": "x"}]}, "leaves.0.loss is missing"),
        ({"leaves": {}}, "leaves is dict, not list"),
        ({"pair": [1]}, "pair has 1 entries, not 2"),
        ({"pair": [1, "2"]}, "pair.1 is '2', not a number"),
        ({"pair": [1, True]}, "pair.1 is 'True', not a number"),
        ({"count": 10**400}, "count is 1000"),
        ({"pair": [1, 10**400]}, "pair.1 is 1000.*, beyond the largest number"),
        ({"count": -1}, "count is -1, not from 0 to inf"),
        ({"count": True}, "count is bool, not int"),
        ({"count": 1.0}, "count is float, not int"),
        ({"done": 1}, "done is int, not bool"),
        ({"by_name": {"z": 3}}, "by_name.z is int, not dict"),
        (
            {"leaves": [{"name": "x", "loss": 1, "mode": "c"}]},
            "leaves.0.mode is 'c', not one of a, b",
        ),
        ({"leaves": [{"name": "x", "loss": float("nan")}]}, "leaves.0.loss is nan, not from"),
        ({"leaves": [{"name": "x", "loss": float("inf")}]}, "leaves.0.loss is inf, not from"),
        ({"leaves": [{"name": "x", "loss": -1}]}, "leaves.0.loss is -1, not from 0 to inf"),
    ],
)
def test_a_foreign_value_is_refused_by_its_field(change, message):
    with pytest.raises(FormatFault, match=f"^{message}"):
        from_json(Tree, to_json(TREE) | change)


def test_a_document_that_is_no_object_is_refused():
    with pytest.raises(FormatFault, match="the document is list, not dict"):
        from_json(Tree, [])
