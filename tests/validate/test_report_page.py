"""The page of a validation: what it says, what it never says, and what it never asks for."""

import base64
import hashlib
import json
import math
import random
import re
from itertools import pairwise
from typing import Any

import pytest

from helpers.html_tree import Node, tree
from helpers.report_data import toy_data, toy_rule
from salient.core.errors import RequestError
from salient.validate.report import check_folder, html, write_report
from salient.validate.report.charts.axis import fitting, linear, placed, tight
from salient.validate.report.figures import MISSING

SECTIONS = ("likelihood", "tasks", "context", "load", "attribution", "memory")
EVIL = "<evil-tag onload='x'>\"'</style></title><script>alert(1)</script>&amp;"
NOTHING = [None, float("nan"), float("inf")]
WILD = [None, float("nan"), -float("inf"), 1e308, -1e308, 5e-324, 0, -3, 10**400, True, "x", [], {}]


def page(data: dict[str, Any]) -> Node:
    return tree(html(data))


@pytest.fixture(scope="module")
def whole() -> Node:
    """The page of a toy that passes; do not change it."""
    return page(toy_data())


def heading(data: dict[str, Any]) -> str:
    return page(data).one("h1").words


def walked(value: Any, change) -> Any:
    """A copy of `value` with every plain value in it changed."""
    if isinstance(value, dict):
        return {key: walked(v, change) for key, v in value.items()}
    if isinstance(value, list):
        return [walked(v, change) for v in value]
    return change(value)


# what it never lets through


def test_no_text_of_a_users_reaches_the_page_as_markup():
    poisoned = walked(toy_data(), lambda v: v + EVIL if isinstance(v, str) else v)
    for where, names in (("likelihood", "texts"), ("tasks", "kinds")):
        named = poisoned[where][names]
        poisoned[where][names] = {EVIL + name: value for name, value in named.items()}
    whole = page(poisoned)
    assert "<evil-tag onload" in whole.text
    tags = {node.tag for node in whole.all()}
    assert not tags & {"evil-tag", "script"}
    assert not [name for node in whole.all() for name in node.attributes if name.startswith("on")]


@pytest.mark.parametrize("sign", ["\x00", "\x1b", "\r", "\u202e", "\u2066", "\ufeff", "\ud800"])
def test_a_character_that_cannot_be_seen_is_shown_by_its_number(sign):
    data = toy_data()
    data["tasks"]["flips"][0]["quantized"] = f"before{sign}after"
    data["checkpoint"] = f"name{sign}"
    found = html(data)
    assert sign not in found
    assert f"before⟨U+{ord(sign):04X}⟩after" in found


def test_text_from_right_to_left_is_set_apart_from_what_is_around_it():
    data = toy_data()
    data["tasks"]["flips"][0].update(id="שלום", quantized="שלום עולם")
    flip = page(data).one("article", "flip")
    assert flip.one("bdi").text == "שלום"
    assert all(text.attributes["dir"] == "auto" for text in flip.all("p", "text"))


def test_the_page_asks_for_nothing(whole):
    ids = {node.attributes.get("id") for node in whole.all()}
    for node in whole.all():
        assert node.tag not in {"script", "link", "img", "iframe", "object", "embed", "base"}
        assert not {"src", "srcset", "data", "action", "style", "xlink:href"} & set(node.attributes)
        if "href" in node.attributes:
            assert node.attributes["href"][:1] == "#"
            assert node.attributes["href"][1:] in ids
    assert not re.search(r"url\(|@import|image-set", whole.one("style").text)


def test_its_policy_forbids_every_load_and_any_style_but_its_own(whole):
    policy = next(
        node.attributes["content"]
        for node in whole.all("meta")
        if node.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(whole.one("style").text.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


# the verdict


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, "Pass"),
        ({"verdict": "fail", "exit_code": 1}, "Fail"),
        ({"verdict": "could not measure", "exit_code": 2}, "Could not measure"),
        ({"exit_code": 1}, "Could not measure"),
        ({"verdict": None}, "Could not measure"),
        ({"verdict": "PASS!"}, "Could not measure"),
        ({"rules": []}, "Could not measure"),
    ],
)
def test_only_a_sound_pass_reads_as_one(change, word):
    data = toy_data()
    data["verdict"].update(change)
    assert heading(data) == word


@pytest.mark.parametrize(
    ("passed", "word"), [(False, "Fail"), (None, "Could not measure"), ("yes", "Could not measure")]
)
def test_a_verdict_is_never_better_than_its_rules(passed, word):
    data = toy_data()
    data["verdict"]["rules"][3]["passed"] = passed
    assert heading(data) == word
    assert page(data).one("header", "bad" if word == "Fail" else "unsure")


@pytest.mark.parametrize("verdict", [None, {}, {"error": "the policy is gone"}])
def test_without_a_verdict_none_is_claimed(verdict):
    whole = page({**toy_data(), "verdict": verdict})
    assert whole.one("h1").words == "No verdict"
    assert not [n for n in whole.all() if "within its bound" in n.words]


def test_a_failed_verdict_names_its_rules_with_figure_interval_and_bound():
    whole = page(toy_data(damaged=17))
    reasons = [node.words for node in whole.one("ul", "reasons").all("li")]
    assert "KL: 0.6500 (0.5855 to 0.7209), where at most 0.15 nats a token is asked." in reasons[0]
    assert len(reasons) == 4


def test_a_rule_says_in_words_whether_it_holds():
    data = toy_data(damaged=17)
    data["verdict"]["rules"][4].update(passed=None, words="only 3 examples: take more")
    rows = list(page(data).one("table", "rules").one("tbody").all("tr"))
    said = [row.one("td", "holds").words for row in rows]
    assert said == [*["does not hold"] * 4, "undecided", *["holds"] * 3]
    assert "Only 3 examples: take more." in rows[4].words


def test_a_figure_that_misses_by_a_hair_does_not_look_like_its_bound():
    data = toy_data()
    bad = ("tasks", "retention", 0.8999, None, 0.9, "at least", "of the reference's", False, "")
    data["verdict"]["rules"] = [toy_rule(*bad)]
    assert "Retention: 89.99%, where at least 90% is asked" in page(data).one("header").words


# its sections


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("blocks", [1, 30, 80])
def test_a_section_that_was_measured_has_its_plots(name, blocks):
    section = page({name: toy_data(blocks)[name]}).by_id(name)
    figures = list(section.all("figure"))
    assert figures
    for figure in figures:
        assert next(figure.all(kind="mark"), None), figure.one("h3").words


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_alone_makes_a_page(name):
    whole = page({name: toy_data()[name]})
    ids = {node.attributes.get("id") for node in whole.all("section")}
    assert ids == {name, "method"}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_that_could_not_be_measured_says_why_and_shows_nothing(name):
    data = {**toy_data(), name: {"error": "no memory was left"}}
    section = page(data).by_id(name)
    assert "Could not be measured: No memory was left." in section.words
    assert not list(section.all("figure"))
    assert not list(section.all("table"))


def test_retrieval_and_drift_that_could_not_be_measured_say_why():
    data = toy_data()
    data["context"]["retrieval"] = {"error": "the server died"}
    data["attribution"]["drift"] = {"texts": [], "calibration": None, "why": "no salient.json"}
    whole = page(data)
    assert "Retrieval could not be measured: the server died" in whole.by_id("context").words
    assert "is not known: no salient.json" in whole.by_id("attribution").words


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_figure_that_is_missing_is_said_to_be_missing_and_is_never_a_number(nothing):
    data = toy_data()
    del data["verdict"]
    gone = walked(data, lambda v: nothing if isinstance(v, (int, float)) else v)
    whole = page(gone)
    for name in ("likelihood", "tasks", "memory"):
        section = whole.by_id(name)
        said = {node.words for node in section.all("span", "figure") if node.words}
        assert said <= {"not measured"} | {"+2.38%", "+6.51%"}
        assert {cell.words for cell in section.all("td", "number")} <= {MISSING}
        assert f"{MISSING}: not measured." in section.words or "Not measured." in section.words
    tiles = {tile.one("span", "figure").words for tile in whole.all("a", "tile")}
    assert tiles == {"not measured"}


def test_a_small_share_does_not_read_as_none():
    assert "&lt;0.1%" in html(toy_data())  # the norms' part of the checkpoint


def test_a_zero_is_drawn_and_named():
    data = toy_data()
    data["attribution"]["blocks"] = [{"name": "model.layers.0", "kl": 0.0}]
    figure = page(data).by_id("attribution").one("figure")
    assert figure.one(kind="mark").one("title").text == "block 0: 0"


def test_a_damaged_block_is_named_in_words_and_beside_its_column():
    section = page(toy_data(80, damaged=41)).by_id("attribution")
    assert "Block 41 stands out" in section.words
    assert "block 41: 0.4120" in [node.words for node in section.all("text", "label")]
    assert len(list(section.one("figure").all("rect", "bad"))) == 1


def test_lost_examples_come_first_and_those_beyond_a_dozen_are_folded():
    data = toy_data(damaged=17)
    section = page(data).by_id("tasks")
    ways = [node.words for node in section.all("span", "way")]
    assert ways == sorted(ways, key=lambda word: "gained" in word)
    assert len(ways) == len(data["tasks"]["flips"]) > 12
    folded = section.one("details", "more")
    assert len(ways) - len(list(folded.all("article"))) == 12


def test_answers_of_any_length_and_number_make_a_page_of_some_megabytes():
    data = toy_data()
    flip = {**data["tasks"]["flips"][0], "prompt": "p" * 10**5, "reference": "<" * 10**5}
    data["tasks"]["flips"] = [flip] * 1000
    found = html({"tasks": data["tasks"]})
    assert len(found.encode()) < 12 * 2**20
    section = tree(found).by_id("tasks")
    assert len(list(section.all("article"))) == 200
    assert "800 more are in report.json." in section.words
    assert "Show all but 97,000 characters, which report.json has" in section.words


def test_what_two_answers_have_in_common_is_not_marked():
    data = toy_data()
    data["tasks"]["flips"][0].update(reference="I say Paris", quantized="I say Padua")
    flip = page(data).one("article", "flip")
    assert [mark.text for mark in flip.all("mark")] == ["Paris", "Padua"]


# whatever the data are


def test_whatever_the_data_lack_there_is_a_page():
    dice = random.Random(0)

    def spoilt(value: Any) -> Any:
        if dice.random() < 0.08:
            return dice.choice(WILD)
        if isinstance(value, dict):
            return {k: spoilt(v) for k, v in value.items() if dice.random() > 0.03}
        if isinstance(value, list):
            return [spoilt(v) for v in value]
        return value

    for number in range(12):
        data = toy_data(30, damaged=number % 2 or None)
        found = page({name: spoilt(value) for name, value in data.items()})
        assert found.one("h1").words in {"Pass", "Fail", "Could not measure", "No verdict"}


@pytest.mark.parametrize("make", [linear, fitting, placed, tight])
def test_every_value_has_a_place_between_the_ends_of_its_axis_in_order(make):
    dice = random.Random(1)
    for _ in range(200):
        scale = 10.0 ** dice.randrange(-320, 308)
        values = [scale * dice.choice([0, 1, 1, -1, 1e-3, dice.random()]) for _ in range(4)]
        values = values[: dice.randrange(5)] + [float("nan")] * dice.randrange(2)
        axis = make(values, str) if make is placed else make(values)
        known = sorted(v for v in values if math.isfinite(v))
        places = [axis.at(value) for value in known]
        assert places == sorted(places)
        assert all(0 <= place <= 100 for place in places)
        assert all(0 <= tick.at <= 100 for tick in axis.ticks(str))
        assert len(axis.steps) < 12


# for everyone


def test_every_picture_has_a_name_or_is_hidden_from_readers(whole):
    for node in whole.all("svg"):
        nested = "preserveaspectratio" in node.attributes
        named = node.attributes.get("role") == "img" and node.one("title").text
        assert named or nested or node.attributes.get("aria-hidden") == "true"


def test_headings_skip_no_level_ids_are_unique_and_tables_say_what_they_are(whole):
    levels = [int(n.tag[1]) for n in whole.all() if re.fullmatch("h[1-6]", n.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    ids = [node.attributes["id"] for node in whole.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for found in whole.all("table"):
        assert found.one("caption").words
        assert all("scope" in cell.attributes for cell in found.all("th"))


def _light(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear_ = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return sum(v * w for v, w in zip(linear_, (0.2126, 0.7152, 0.0722), strict=True))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(whole, theme):
    blocks = re.findall(r":root \{(.*?)\}", whole.one("style").text, re.DOTALL)
    colours = {k: v for k, v in re.findall(r"--([\w-]+): (#\w{6});", blocks[theme])}
    behind = ["paper", "raised", "good-tint", "bad-tint", "unsure-tint"]
    texts = {"ink": behind, "soft": behind, "good": ["paper", "good-tint"]}
    texts |= {"bad": ["paper", "bad-tint"], "unsure": ["paper", "unsure-tint"]}
    texts |= {name: ["paper"] for name in ("checkpoint", "p90", "p99", "p50-ink")}
    for text, papers in texts.items():
        for paper in papers:
            a, b = sorted((_light(colours[text]), _light(colours[paper])))
            assert (b + 0.05) / (a + 0.05) >= 4.5, (text, paper)


# the files


def test_the_files_are_whole_and_the_json_is_the_data_with_null_for_what_is_no_number(tmp_path):
    data = toy_data()
    data["likelihood"]["all"]["kl"] = float("nan")
    data["tasks"]["flips"][0]["quantized"] = "half a pair \ud83d here"
    paths = write_report(data, tmp_path / "new" / "folder")
    assert {path.name for path in paths.values()} == {f"report.{k}" for k in ("html", "md", "json")}
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(
        path.name for path in paths.values()
    )

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    read = json.loads(paths["json"].read_text(encoding="utf-8"), parse_constant=refuse)
    data["likelihood"]["all"]["kl"] = None
    assert read == data
    assert tree(paths["html"].read_text(encoding="utf-8")).one("h1")


def test_the_same_data_make_the_same_page():
    assert html(toy_data()) == html(toy_data())


def test_a_file_in_the_way_of_the_folder_is_said(tmp_path):
    (tmp_path / "report").write_text("a file", encoding="utf-8")
    for folder in (tmp_path / "report", tmp_path / "report" / "deeper"):
        with pytest.raises(RequestError, match=r"report is no folder\. Give a folder, new or old"):
            check_folder(folder)
    check_folder(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()
