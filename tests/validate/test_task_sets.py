"""The bundled task sets: every answer is worked out again, by other means than the generator's."""

import ast
import contextlib
import io
import json
import operator
import re
from collections import Counter
from pathlib import Path

import pytest

from salient.validate.tasks.scoring import Example, score
from salient.validate.tasks.task_sets import BUNDLED, read_tasks

SCRIPTS = Path(__file__).parents[2] / "tools"
CHOSEN = [name for name in BUNDLED if read_tasks(name)[0].choices]
BUILTINS = {f.__name__: f for f in (abs, int, len, list, max, min, print, range, repr, sorted, sum)}
SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
WEEK = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def question_of(example: Example) -> str:
    """The question itself, without the worked ones before it."""
    return example.prompt.rpartition("\n\n")[2]


def worked(example: Example) -> list[str]:
    return example.prompt.split("\n\n")


def value(node: ast.expr) -> int:
    if isinstance(node, ast.BinOp):
        return SIGNS[type(node.op)](value(node.left), value(node.right))
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, int)
    return node.value


def printed(code: str) -> str:
    """What code prints that has a few builtins and no import; "" for code that fails."""
    assert not any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(ast.parse(code)))
    assert "__" not in code
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(TypeError):
        exec(code, {"__builtins__": BUILTINS})
    return output.getvalue().strip()


@pytest.mark.parametrize("name", BUNDLED)
def test_a_set_has_a_hundred_examples_of_its_kind_and_no_question_twice(name):
    examples = read_tasks(name)
    assert len(examples) >= 100
    assert {example.kind for example in examples} == {name}
    assert len({example.prompt for example in examples}) == len(examples)
    if name != "code":
        assert len({question_of(example) for example in examples}) == len(examples)


@pytest.mark.parametrize("name", BUNDLED)
def test_an_expected_answer_is_scored_as_right(name):
    for example in read_tasks(name):
        assert score(example, example.expected[0]), example.id


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_files_are_what_the_script_writes(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import write_task_sets  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(write_task_sets, "FOLDER", tmp_path)
    write_task_sets.main()
    rows = map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines())
    assert [row["prompt"] for row in rows] == [e.prompt for e in read_tasks(name)]


@pytest.mark.parametrize("name", CHOSEN)
def test_the_right_choice_is_at_each_index_equally_often(name):
    examples = read_tasks(name)
    (many,) = {len(example.choices) for example in examples}
    places = Counter(example.answer for example in examples)
    assert max(places.values()) - min(places[n] for n in range(many)) <= 1


@pytest.mark.parametrize("name", CHOSEN)
def test_the_choices_of_an_example_are_of_one_style(name):
    for example in read_tasks(name):
        first = {choice[0].isupper() for choice in example.choices}
        last = {choice[-1] == "." for choice in example.choices}
        digits = {choice.isdigit() for choice in example.choices}
        assert len(first) == len(last) == len(digits) == 1, example.id
        assert all(choice.isascii() for choice in example.choices)


@pytest.mark.parametrize("name", CHOSEN)
def test_the_length_does_not_reveal_the_right_choice(name):
    examples = read_tasks(name)
    chance = examples[0].chance
    for pick in (max, min):
        sole = [
            [len(c) for c in e.choices].count(pick(map(len, e.choices))) == 1
            and len(e.expected[0]) == pick(map(len, e.choices))
            for e in examples
        ]
        assert sum(sole) / len(examples) < chance + 0.15


def test_every_sum_is_right_in_its_question_and_in_the_worked_ones():
    for example in read_tasks("arithmetic"):
        for question in worked(example):
            match = re.fullmatch(r"Question: What is ([\d +*-]+)\?\nAnswer:(?: (\d+))?", question)
            assert match, question
            right = value(ast.parse(match[1], mode="eval").body)
            assert str(right) == (match[2] or example.expected[0])


def test_an_extracted_value_is_once_in_its_text():
    for example in read_tasks("extraction"):
        for part in worked(example):
            text, _, question = part.partition("\nQuestion: ")
            answer = question.partition("\nAnswer:")[2].strip() or example.expected[0]
            assert len(re.findall(rf"\b{answer}\b", text)) == 1, part


# What stands around the value that each question of the set "extraction" asks for.
AROUND = {
    "What is the order number?": r"Order (\d+) is",
    "What was ordered?": r"is one (\w+) for",
    "In which city does the buyer live?": r" in (\w+) on",
    "What is the price in dollars?": r"for (\d+) dollars",
    "What is the last name of the doctor?": r"Dr\. \w+ (\w+)",
    "What is the number of the room?": r"room (\d+)",
    "In which month did the doctor move?": r"from \w+ in (\w+)",
    "What is broken?": r"broken (\w+)",
    "In which city is the meeting?": r"place in (\w+)",
    "What is the door code?": r"code is (\d+)",
    "How many people will come?": r"(\d+) people",
    "What is the first name of the leader?": r"\. (\w+) \w+ leads",
}


def test_an_extracted_value_is_the_one_in_question():
    questions = set()
    for example in read_tasks("extraction"):
        for part in worked(example):
            text, _, rest = part.partition("\nQuestion: ")
            question, _, answer = rest.partition("\nAnswer:")
            match = re.search(AROUND[question], text)
            assert match, part
            assert match[1] == (answer.strip() or example.expected[0])
            questions.add(question)
    assert questions == set(AROUND)


def test_only_the_right_choice_is_what_the_code_prints():
    snippets = [e for e in read_tasks("code") if not e.prompt.startswith("def ")]
    assert len(snippets) >= 60
    for example in snippets:
        for part in worked(example):
            code, _, output = part.removeprefix("Code:\n").partition("\nOutput:")
            assert printed(code) == (output.strip() or example.expected[0])


def test_only_the_right_line_gives_the_result_of_a_functions_example():
    functions = [e for e in read_tasks("code") if e.prompt.startswith("def ")]
    assert len(functions) >= 20
    for example in functions:
        match = re.search(r">>> (.+)\n    (.+)\n", example.prompt)
        assert match
        fits = [
            printed(f"{example.prompt}{line}\nprint(repr({match[1]}))") == match[2]
            for line in example.choices
        ]
        assert fits == [n == example.answer for n in range(4)], example.prompt


def follow(question: str) -> str:
    """The answer to a question of the set "reasoning", worked out from its words."""
    numbers = [int(n) for n in re.findall(r"\d+", question)]
    if match := re.search(r"box to the (\w+)\.", question):
        return f"In the {match[1]}"
    if match := re.search(r"is one of the (\w+)\.", question):
        return re.findall(rf"all {match[1]} are (\w+)", question)[0].capitalize()
    if match := re.search(r"Today is (\w+)\. What day (.+)\?", question):
        ahead = {"is tomorrow": 1, "is the day after tomorrow": 2, "is it in three days": 3}
        return WEEK[(WEEK.index(match[1]) + ahead.get(match[2], -1)) % 7]
    if "next number in the row" in question:
        return str(2 * numbers[-1] - numbers[-2])
    if "more and gives" in question:
        return str(numbers[0] + numbers[1] - numbers[2])
    above = re.findall(r"(\w+) is (?:older|taller) than (\w+)", question)
    firsts, seconds = ({pair[n] for pair in above} for n in (0, 1))
    top = re.search(r"Who is the (oldest|tallest)", question)
    (answer,) = firsts - seconds if top else seconds - firsts
    return answer


def test_every_conclusion_follows_from_its_text():
    for example in read_tasks("reasoning"):
        for part in worked(example):
            question, _, answer = part.partition("\nAnswer:")
            assert follow(question) == (answer.strip() or example.expected[0]), part


def test_no_other_choice_is_the_answer_to_the_same_question_elsewhere():
    subjects = {}
    for example in read_tasks("knowledge"):
        match = re.fullmatch(r"Question: What is the capital of (.+)\?\nAnswer:", example.prompt)
        if match:
            subjects[match[1]] = example.expected[0]
    assert len(subjects) > 30
    assert len(set(subjects.values())) == len(subjects)


MEN = {"Carl", "Dan", "Fred", "Henry", "Leo", "Nick", "Oscar"}
PASTS = {"went", "ate", "took", "gave", "ran", "wrote", "spoke", "broke", "bought", "brought"}
PASTS |= {"caught", "taught", "swam", "drove", "sang"}


def is_right(start: str, end: str) -> bool:
    """Whether a sentence of the set "language" is good English, by rules for its form."""
    tokens, first = start.split(), end.split()[0].strip(".")
    many = tokens[1].endswith("s") or tokens[1] in {"children", "men", "women"}
    he = any(word.strip(",") in MEN for word in tokens)
    rules = {
        r"The \w+ (near|that) the": first in (("are", "were") if many else ("is", "was")),
        r"Yesterday I saw": first == "that",
        r"There are many": first == "has",
        r"Last week": first in PASTS,
        r"After the fall": first == ("himself" if he else "herself"),
        r"The teacher thanked": first == ("him" if he else "her"),
        r"In the bag": first == ("an" if end.partition(" ")[2][:1] in tuple("aeiou") else "a"),
    }
    (right,) = [right for form, right in rules.items() if re.match(form, start)]
    return right


def test_only_the_right_way_of_a_sentence_is_good_english():
    for example in read_tasks("language"):
        good = [is_right(example.prompt, choice) for choice in example.choices]
        assert good == [n == example.answer for n in range(2)], example


def test_the_two_ways_of_a_sentence_differ_in_one_word():
    for example in read_tasks("language"):
        right, wrong = (choice.split() for choice in example.choices)
        assert len(right) == len(wrong)
        assert sum(a != b for a, b in zip(right, wrong, strict=True)) == 1
