"""The page of a validation: verdict, sections, and what it must never contain or request."""

import base64
import hashlib
import json
import math
import random
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from helpers.html_tree import Node, tree
from helpers.report_data import judged, mapped, toy_flip, toy_result
from salient.core.errors import RequestError
from salient.core.metrics import LogitsComparison
from salient.validate.attribution.result import DriftResult
from salient.validate.policy.policy import THRESHOLDS, Policy
from salient.validate.policy.verdict import RuleResult
from salient.validate.report.axis import at_values, fitting, linear
from salient.validate.report.page import html
from salient.validate.report.text_format import MISSING
from salient.validate.report.write import check_folder, write_report
from salient.validate.result import ValidationResult
from salient.validate.stage import UnmeasuredStage

STAGES = ("likelihood", "tasks", "context", "load", "attribution")
EVIL = "<evil-tag onload='x'>\"'</style></title><script>alert(1)</script>&amp;"
EXTREMES = [math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 0.0, -3.0]


def page(result: ValidationResult) -> Node:
    return tree(html(result))


@pytest.fixture(scope="module")
def passing() -> ValidationResult:
    return toy_result()


@pytest.fixture(scope="module")
def failing() -> ValidationResult:
    return toy_result(damaged=17)


@pytest.fixture(scope="module")
def passing_page(passing) -> Node:
    """Shared by tests that only read it."""
    return page(passing)


def with_rule(result: ValidationResult, number: int, **changes: Any) -> ValidationResult:
    """`result` with one rule of its verdict changed."""
    assert result.verdict
    rules = list(result.verdict.rules)
    rules[number] = replace(rules[number], **changes)
    return replace(result, verdict=replace(result.verdict, rules=tuple(rules)))


def with_flips(result: ValidationResult, *flips: Any) -> ValidationResult:
    comparison = replace(result.tasks.comparison, flips=flips)
    return replace(result, tasks=replace(result.tasks, comparison=comparison))


def only(result: ValidationResult, stage: str) -> ValidationResult:
    """`result` with a single stage and no verdict."""
    return replace(result, verdict=None, **{name: None for name in STAGES if name != stage})


# What never gets through


def test_foreign_text_never_becomes_markup(passing):
    poisoned = page(mapped(passing, lambda text: EVIL + text))
    assert "<evil-tag onload" in poisoned.text
    assert not {node.tag for node in poisoned.all()} & {"evil-tag", "script"}
    names = [name for node in poisoned.all() for name in node.attributes]
    assert not [name for name in names if name.startswith("on")]


@pytest.mark.parametrize("sign", ["\x00", "\x1b", "\r", "\u202e", "\u2066", "\ufeff", "\ud800"])
def test_an_invisible_character_is_shown_by_its_number(passing, sign):
    flip = replace(passing.tasks.comparison.flips[0], quantized=f"before{sign}after")
    text = html(replace(with_flips(passing, flip), checkpoint=f"name{sign}"))
    assert sign not in text
    assert f"before⟨U+{ord(sign):04X}⟩after" in text


def test_right_to_left_text_is_isolated(passing):
    flip = passing.tasks.comparison.flips[0]
    flip = replace(flip, example=replace(flip.example, id="שלום"), quantized="שלום עולם")
    article = page(with_flips(passing, flip)).one("article", "flip")
    assert article.one("bdi").text == "שלום"
    assert all(text.attributes["dir"] == "auto" for text in article.all("p", "text"))


def test_the_page_requests_nothing(passing_page):
    ids = {node.attributes.get("id") for node in passing_page.all()}
    for node in passing_page.all():
        assert node.tag not in {"script", "link", "img", "iframe", "object", "embed", "base"}
        assert not {"src", "srcset", "data", "action", "style", "xlink:href"} & set(node.attributes)
        if "href" in node.attributes:
            assert node.attributes["href"][:1] == "#"
            assert node.attributes["href"][1:] in ids
    assert not re.search(r"url\(|@import|image-set", passing_page.one("style").text)


def test_the_policy_forbids_every_load_and_other_styles(passing_page):
    policy = next(
        node.attributes["content"]
        for node in passing_page.all("meta")
        if node.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    style = passing_page.one("style").text.encode()
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


# The verdict


@pytest.mark.parametrize(
    ("passed", "word", "sign"),
    [(True, "Pass", "good"), (False, "Fail", "bad"), (None, "Could not measure", "unsure")],
)
def test_the_heading_is_the_verdict_of_the_rules(passing, passed, word, sign):
    view = page(with_rule(passing, 3, passed=passed))
    assert view.one("h1").line == word
    assert view.one("header", sign)


def test_a_verdict_without_rules_is_no_pass(passing):
    assert page(replace(passing, verdict=replace(passing.verdict, rules=()))).one("h1").line == (
        "Could not measure"
    )


def test_without_a_policy_there_is_no_verdict(passing):
    view = page(replace(passing, verdict=None))
    assert view.one("h1").line == "No verdict"
    assert not [node for node in view.all() if "within its bound" in node.line]


def test_a_failed_verdict_names_its_rules_with_figure_interval_and_bound(failing):
    reasons = [node.line for node in page(failing).one("ul", "reasons").all("li")]
    assert re.match(
        r"KL: 0\.7280 \(0\.\d{4} to 0\.\d{4}\), required: at most 0\.15 nats a token\.", reasons[0]
    )
    assert len(reasons) == 4


def test_a_rule_shows_as_text_whether_it_holds(failing):
    undecided = with_rule(failing, 4, passed=None, reason="only 3 examples: take more")
    rows = list(page(undecided).one("table", "rules").one("tbody").all("tr"))
    holds = [row.one("td", "holds").line for row in rows]
    assert holds == [*["does not hold"] * 4, "undecided", *["holds"] * 3]
    assert "Only 3 examples: take more." in rows[4].line


def test_a_figure_just_below_its_bound_does_not_look_like_the_bound(passing):
    rule = RuleResult(
        "tasks", "retention", "all", 0.8999, None, 0.9, "at least", "", passed=False, reason=""
    )
    verdict = replace(passing.verdict, rules=(rule,))
    header = page(replace(passing, verdict=verdict)).one("header").line
    assert "Retention: 89.99%, required: at least 90%" in header


@pytest.mark.parametrize("use", ["upper", "middle"])
def test_every_threshold_of_a_policy_has_a_row(passing, use):
    bounds = {(threshold.stage, threshold.key): threshold.most for threshold in THRESHOLDS}
    policy = Policy("all", use, bounds, kinds={"code": 0.5})
    rows = list(page(judged(passing, policy)).one("table", "rules").one("tbody").all("tr"))
    assert len(rows) == len(THRESHOLDS) + 1
    assert "Retention (code)" in rows[-1].line


# The sections


@pytest.mark.parametrize("name", [*STAGES, "memory"])
@pytest.mark.parametrize("blocks", [1, 30, 80])
def test_a_measured_section_has_charts_with_marks(name, blocks):
    figures = list(page(toy_result(blocks)).by_id(name).all("figure"))
    assert figures
    for figure in figures:
        assert next(figure.all(kind="mark"), None), figure.one("h3").line


@pytest.mark.parametrize("name", STAGES)
def test_a_single_stage_makes_a_page(passing, name):
    ids = {node.attributes.get("id") for node in page(only(passing, name)).all("section")}
    assert ids == {name, "memory", "method"}


@pytest.mark.parametrize("name", STAGES)
def test_an_unmeasured_section_shows_the_reason_and_nothing_else(passing, name):
    result = replace(passing, **{name: UnmeasuredStage(name, "no memory was left")})
    section = page(result).by_id(name)
    assert "Could not be measured: No memory was left." in section.line
    assert not list(section.all("figure"))
    assert not list(section.all("table"))


def test_unmeasured_retrieval_and_drift_show_the_reason(passing):
    context = replace(passing.context, retrieval=None, retrieval_error="the server died")
    drift = DriftResult(None, reason="no salient.json")
    attribution = replace(passing.attribution, drift=drift)
    view = page(replace(passing, context=context, attribution=attribution))
    assert "Retrieval could not be measured: the server died" in view.by_id("context").line
    assert "is not known: no salient.json" in view.by_id("attribution").line


def test_equal_models_have_no_growth(passing):
    context = replace(passing.context, growth=None)
    view = page(judged(replace(passing, context=context)))
    assert "How the KL grows along the window was not measured" in view.by_id("context").line


@pytest.mark.parametrize("missing", [math.nan, math.inf])
def test_a_missing_figure_is_never_a_number(passing, missing):
    sums = LogitsComparison(10, missing, 5, 10, missing, missing)
    texts = {
        name: replace(text, sums=sums, intervals={})
        for name, text in passing.likelihood.texts.items()
    }
    total = replace(passing.likelihood.total, sums=sums, intervals={})
    likelihood = replace(passing.likelihood, texts=texts, total=total, published=())
    view = page(replace(passing, likelihood=likelihood, verdict=None))
    section = view.by_id("likelihood")
    assert [node.line for node in section.all("p", "missing")] == ["Not measured."] * 2
    row = list(section.one("table").one("tbody").one("tr").all("td"))
    assert [row[i].line for i in (2, 4, 5, 6)] == [MISSING] * 4
    assert f"{MISSING}: not measured." in section.line
    tiles = {tile.one("span", "name").line: tile for tile in view.all("a", "tile")}
    assert tiles["KL"].one("span", "figure").line == "not measured"


def test_a_small_share_does_not_read_as_zero(passing):
    assert "&lt;0.1%" in html(passing)  # the norms' part of the checkpoint


def test_zero_is_drawn_and_labelled(passing):
    attribution = replace(passing.attribution, blocks={"model.layers.0": 0.0})
    figure = page(replace(passing, attribution=attribution)).by_id("attribution").one("figure")
    assert figure.one(kind="mark").one("title").text == "block 0: 0"


def test_a_damaged_block_is_named_in_the_text_and_at_its_column():
    section = page(toy_result(80, damaged=41)).by_id("attribution")
    assert "Block 41 stands out" in section.line
    assert [node.line for node in section.all("text", "label")] == ["block 41: 0.4120"]
    assert len(list(section.one("figure").all("rect", "bad"))) == 1


def test_the_retrieval_table_has_both_models_counts_at_each_depth_and_length(passing):
    section = page(passing).by_id("context")
    grid = list(section.all("table"))[1]
    assert [cell.line for cell in grid.all("th")][:5] == ["depth", "512", "1,024", "2,048", "4,096"]
    cells = [cell.line for cell in grid.all("td")]
    counts = sorted(passing.context.retrieval.rows, key=lambda row: (row.depth, row.length))
    assert cells == [f"{c.quantized}/{c.count}reference {c.reference}/{c.count}" for c in counts]


def test_lost_examples_come_first_and_only_a_dozen_is_unfolded(failing):
    section = page(failing).by_id("tasks")
    directions = [node.line for node in section.all("span", "direction")]
    assert directions == sorted(directions, key=lambda text: "gained" in text)
    assert len(directions) == len(failing.tasks.comparison.flips) > 12
    folded = section.one("details", "more")
    assert len(directions) - len(list(folded.all("article"))) == 12


def test_long_answers_in_great_number_make_a_page_of_some_megabytes(passing):
    flip = toy_flip(random.Random(0), "code", "code:1", lost=True)
    example = replace(flip.example, prompt="p" * 10**5)
    flip = replace(flip, example=example, reference="<" * 10**5)
    text = html(only(with_flips(passing, *[flip] * 1000), "tasks"))
    assert len(text.encode()) < 12 * 2**20
    section = tree(text).by_id("tasks")
    assert len(list(section.all("article"))) == 200
    assert "800 more are in report.json." in section.line
    assert "Show all but 97,000 characters, which are in report.json" in section.line


def test_the_common_start_of_two_answers_is_not_marked(passing):
    flip = passing.tasks.comparison.flips[0]
    flip = replace(flip, reference="I say Paris", quantized="I say Padua")
    article = page(with_flips(passing, flip)).one("article", "flip")
    assert [mark.text for mark in article.all("mark")] == ["Paris", "Padua"]


# Extreme values


def test_extreme_figures_make_a_page():
    rng = random.Random(0)

    def sometimes_extreme(value: float) -> float:
        return rng.choice(EXTREMES) if rng.random() < 0.1 else value

    for number in range(12):
        result = toy_result(30, damaged=number % 2 or None)
        likelihood = replace(result.likelihood, published=())  # their figures are constants
        stages = replace(result, likelihood=likelihood).stages
        wild = {name: mapped(stage, on_number=sometimes_extreme) for name, stage in stages.items()}
        view = page(judged(replace(result, **wild)))
        assert view.one("h1").line in {"Pass", "Fail", "Could not measure"}


@pytest.mark.parametrize("scale", [linear, fitting, at_values])
def test_values_have_ordered_places_between_the_ends_of_their_axis(scale):
    rng = random.Random(1)
    for _ in range(200):
        unit = 10.0 ** rng.randrange(-320, 308)
        values = [unit * rng.choice([0, 1, 1, -1, 1e-3, rng.random()]) for _ in range(4)]
        values = values[: rng.randrange(5)] + [math.nan] * rng.randrange(2)
        axis = scale(values)
        places = [axis.at(value) for value in sorted(v for v in values if math.isfinite(v))]
        assert places == sorted(places)
        assert all(0 <= place <= 100 for place in places)
        assert all(0 <= tick.at <= 100 for tick in axis.ticks(str))
        assert len(axis.steps) < 12


# Accessibility


def test_every_picture_has_a_name_or_is_hidden_from_screen_readers(passing_page):
    for node in passing_page.all("svg"):
        nested = "preserveaspectratio" in node.attributes
        named = node.attributes.get("role") == "img" and node.one("title").text
        assert named or nested or node.attributes.get("aria-hidden") == "true"


def test_headings_skip_no_level_ids_are_unique_and_tables_have_headers(passing_page):
    levels = [int(n.tag[1]) for n in passing_page.all() if re.fullmatch("h[1-6]", n.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    ids = [node.attributes["id"] for node in passing_page.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for table in passing_page.all("table"):
        assert table.one("caption").line
        assert all("scope" in cell.attributes for cell in table.all("th"))


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear_ = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in channels]
    return sum(v * w for v, w in zip(linear_, (0.2126, 0.7152, 0.0722), strict=True))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(passing_page, theme):
    blocks = re.findall(r":root \{(.*?)\}", passing_page.one("style").text, re.DOTALL)
    colours = {k: v for k, v in re.findall(r"--([\w-]+): (#\w{6});", blocks[theme])}
    backgrounds = ["paper", "raised", "good-tint", "bad-tint", "unsure-tint"]
    texts = {"ink": backgrounds, "soft": backgrounds, "good": ["paper", "good-tint"]}
    texts |= {"bad": ["paper", "bad-tint"], "unsure": ["paper", "unsure-tint"]}
    texts |= {name: ["paper"] for name in ("checkpoint", "p90", "p99", "p50-ink")}
    for text, papers in texts.items():
        for paper in papers:
            a, b = sorted((_luminance(colours[text]), _luminance(colours[paper])))
            assert (b + 0.05) / (a + 0.05) >= 4.5, (text, paper)


# The files


def test_the_json_is_the_result_with_null_for_infinite_numbers(passing, tmp_path):
    flip = replace(passing.tasks.comparison.flips[0], quantized="half a pair \ud83d here")
    total = replace(passing.likelihood.total, sums=LogitsComparison(10, math.nan, 5, 10, 1.0, 1.0))
    likelihood = replace(passing.likelihood, total=total)
    result = replace(with_flips(passing, flip), likelihood=likelihood)
    paths = write_report(result, tmp_path / "new" / "folder")
    assert {path.name for path in paths.values()} == {f"report.{k}" for k in ("html", "md", "json")}
    assert set((tmp_path / "new" / "folder").iterdir()) == set(paths.values())

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    data = json.loads(paths["json"].read_text(encoding="utf-8"), parse_constant=refuse)
    assert data["likelihood"]["all"]["kl"] is None
    assert data["tasks"]["flips"][0]["quantized"] == "half a pair \ud83d here"
    assert data["verdict"]["rules"][0]["interval"]["low"] == passing.verdict.rules[0].interval.low
    assert data.keys() == passing.to_dict().keys()
    assert tree(paths["html"].read_text(encoding="utf-8")).one("h1")


def test_the_same_result_makes_the_same_page():
    assert html(toy_result()) == html(toy_result())


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "report").write_text("a file", encoding="utf-8")
    for folder in (tmp_path / "report", tmp_path / "report" / "deeper"):
        with pytest.raises(RequestError, match=r"report is not a folder\. Give a folder"):
            check_folder(folder)
    check_folder(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()
