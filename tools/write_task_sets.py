"""Write the task sets of `salient validate`: seeded templates over the tables of task_facts.py.

    python tools/write_task_sets.py

Every run writes the same files. A template computes its answer; snippets of "code" are run.
"""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import task_facts as facts
from task_lines import Line, balanced, chosen, distinct, near, pairs, question

FOLDER = Path(__file__).parents[1] / "src" / "salient" / "validate" / "tasks" / "data"
SEED = 20

# --- arithmetic: generated answers after four worked examples ---


def arithmetic(rng: Random) -> list[Line]:
    """Sums, differences, products of small numbers, and two steps."""

    def step(sign: str) -> tuple[str, int]:
        if sign == "*":
            a, b = rng.randint(2, 9), rng.randint(2, 9)
            return f"{a} * {b}", a * b
        a, b = sorted((rng.randint(1, 49), rng.randint(1, 49)), reverse=True)
        if sign == "two":
            c = rng.randint(1, 9)
            return f"{a} + {b} - {c}", a + b - c
        return (f"{a} + {b}", a + b) if sign == "+" else (f"{a} - {b}", a - b)

    def line(sign: str) -> Line:
        shots = "\n\n".join(question(f"What is {w}?", str(v)) for w, v in map(step, "+-*+"))
        text, value = step(sign)
        prompt = f"{shots}\n\n{question(f'What is {text}?')}"
        return {"prompt": prompt, "expected": str(value), "match": "numeric", "kind": "arithmetic"}

    counts = {"+": 45, "-": 35, "*": 25, "two": 15}
    lines = [each for s, n in counts.items() for each in distinct(lambda s=s: line(s), n)]
    rng.shuffle(lines)
    return lines


# --- extraction: generated answers, copied from a text, after two worked examples ---


def records(rng: Random) -> tuple[str, dict[str, str]]:
    """A short text, and the questions that it answers."""
    name, city, month = (
        rng.choice(table.split()) for table in (facts.NAMES, facts.CITIES, facts.MONTHS)
    )
    thing, family = rng.choice(facts.GOODS.split()), rng.choice(facts.SURNAMES.split())
    day, code, price = rng.randint(1, 28), str(rng.randint(1000, 9999)), str(rng.randint(11, 99))
    return rng.choice(
        [
            (
                f"Order {code} is one {thing} for {price} dollars. It was sent to {name} {family} "
                f"in {city} on {month} {day}.",
                {
                    "What is the order number?": code,
                    "What was ordered?": thing,
                    "In which city does the buyer live?": city,
                    "What is the price in dollars?": price,
                },
            ),
            (
                f"Dr. {name} {family} moved from {city} in {month} and now works in room {code}. "
                f"The office has {price} desks and a broken {thing}.",
                {
                    "What is the last name of the doctor?": family,
                    "What is the number of the room?": code,
                    "In which month did the doctor move?": month,
                    "What is broken?": thing,
                },
            ),
            (
                f"The meeting about the new {thing} takes place in {city} on {month} {day}. {name} "
                f"{family} leads it, and {price} people will come. The door code is {code}.",
                {
                    "In which city is the meeting?": city,
                    "What is the door code?": code,
                    "How many people will come?": price,
                    "What is the first name of the leader?": name,
                },
            ),
        ]
    )


def extraction(rng: Random) -> list[Line]:
    """Questions about one value in a text of one or two sentences."""

    def worked() -> tuple[str, str]:
        text, answers = records(rng)
        query, value = rng.choice(list(answers.items()))
        return f"Text: {text}\n{question(query)}", value

    def line() -> Line:
        shots = "".join(f"{prompt} {value}\n\n" for prompt, value in (worked(), worked()))
        prompt, value = worked()
        return {
            "prompt": shots + prompt, "expected": value, "match": "exact", "kind": "extraction",
        }  # fmt: skip

    return distinct(line, 120)


# --- code: choices by likelihood ---


def printed(snippet: str) -> str:
    """The output of a snippet of this file."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(snippet, {})
    return output.getvalue().strip()


def snippet(rng: Random) -> str:
    a, b, c = rng.sample(range(2, 10), 3)
    word = rng.choice([*facts.GOODS.split(), *facts.FRUIT.split()])
    return rng.choice(
        (
            f"x = {a}\ny = {b}\nprint(x + y)",
            f"x = {a}\nx = x + {b}\nprint(x)",
            f"print({a} * {b})",
            f"items = [{a}, {b}, {c}]\nprint(len(items))",
            f"items = [{a}, {b}, {c}]\nprint(items[0])",
            f"items = [{a}, {b}, {c}]\nprint(items[-1])",
            f"items = [{a}, {b}, {c}]\nprint(max(items))",
            f"items = [{a}, {b}, {c}]\nprint(sum(items))",
            f'prices = {{"{word}": {a}, "pen": {b}}}\nprint(prices["{word}"])',
            f"total = 0\nfor n in range({rng.randint(2, 4)}):\n    total += {a}\nprint(total)",
            f'word = "{word}"\nprint(len(word))',
            f'count = {a}\nif "{word}" == "{word}":\n    count = {b}\nprint(count)',
        )
    )


def code(rng: Random) -> list[Line]:
    """The output of a snippet, after two worked ones; the body of a function with an example."""

    def prints() -> Line:
        *shots, last = (snippet(rng) for _ in range(3))
        worked = "".join(f"Code:\n{shot}\nOutput: {printed(shot)}\n\n" for shot in shots)
        right = printed(last)
        prompt = f"{worked}Code:\n{last}\nOutput:"
        return chosen("code", prompt, right, near(rng, int(right)))

    def line(head: str, call: str, right: str, *wrong: str) -> Line:
        name = head.partition("(")[0]
        result = printed(f"def {head}:\n    {right}\nprint(repr({call}))")
        prompt = f'def {head}:\n    """The function {name}.\n\n'
        prompt += f'    >>> {call}\n    {result}\n    """\n    '
        return chosen("code", prompt, right, list(wrong))

    return balanced(distinct(prints, 92) + [line(*each) for each in facts.FUNCTIONS], rng)


# --- knowledge: choices by likelihood ---


def knowledge(rng: Random) -> list[Line]:
    """Facts; the wrong choices are answers to other questions of the same table."""

    def facts_of(text: str, table: str) -> Iterator[Line]:
        answers = sorted({answer for _, answer in pairs(table)})
        for subject, answer in pairs(table):
            wrong = rng.sample([each for each in answers if each != answer], 3)
            yield chosen("knowledge", question(text.format(subject)), answer, wrong)

    lines = [
        *facts_of("What is the capital of {}?", facts.CAPITALS),
        *facts_of("What is the chemical symbol for {}?", facts.SYMBOLS),
        *facts_of("On which continent is {}?", facts.CONTINENTS),
        *facts_of("What is a young {} called?", facts.YOUNG),
        *facts_of('What is the opposite of "{}"?', facts.OPPOSITES),
    ]
    for row in facts.QUESTIONS:
        text, right, *wrong = row.split("|")
        lines.append(chosen("knowledge", question(text), right, wrong))
    return balanced(lines, rng)


# --- language: two choices by likelihood that differ in one word ---


def language(rng: Random) -> list[Line]:
    """Agreement, pronouns, articles, irregular past tenses: a sentence with two endings."""
    nouns, lines = pairs(facts.NOUNS), []

    def add(start: str, right: str, wrong: str) -> None:
        lines.append(chosen("language", start, right, [wrong]))

    for number, (one, many) in enumerate(nouns):
        other_one, other_many = nouns[(number + 4) % len(nouns)]
        add(f"The {one} near the {other_many}", "is very old.", "are very old.")
        add(f"The {many} near the {other_one}", "are very old.", "is very old.")
        add(f"The {one} that the {other_many} found", "was in town.", "were in town.")
        add(f"Yesterday I saw these {many}, but not", f"that {one}.", f"those {one}.")
        add(f"There are many {many} here, and each {one}", "has a name.", "have a name.")
    for row, name in zip(facts.PASTS, facts.NAMES.split(), strict=False):
        past, ruled, end = row.split("|")
        add(f"Last week {name}", f"{past} {end}.", f"{ruled} {end}.")
    for he, she in pairs(facts.MEN_WOMEN):
        add(f"After the fall, {he} looked at", "himself.", "herself.")
        add(f"After the fall, {she} looked at", "herself.", "himself.")
        add(f"The teacher thanked {he} and gave", "him a book.", "he a book.")
        add(f"The teacher thanked {she} and gave", "her a book.", "she a book.")
    for word, article in pairs(facts.ARTICLES):
        other = "a" if article == "an" else "an"
        add(f"In the bag she found {word}s and took out", f"{article} {word}.", f"{other} {word}.")
    return balanced(lines, rng)


# --- reasoning: choices by likelihood, more than one step ---


def reasoning(rng: Random) -> list[Line]:
    """Orders, places, kinds, weekdays, sequences, word problems: each after two worked examples."""
    week = facts.WEEK.split()

    def pick(table: str, count: int) -> list[str]:
        return rng.sample(table.split(), count)

    def order() -> Line:
        names = pick(facts.NAMES, 4)
        word, most, least = rng.choice(facts.ORDERS)
        text = " ".join(f"{a} is {word} than {b}." for a, b in pairwise(names))
        extreme, right = rng.choice(((most, names[0]), (least, names[-1])))
        text = f"{text} Who is the {extreme}?"
        return chosen("reasoning", question(text), right, [n for n in names if n != right])

    def place() -> Line:
        (one, two), rooms = pick(facts.NAMES, 2), pick(facts.ROOMS, 4)
        (thing,) = pick(facts.THINGS, 1)
        text = f"{one} put the {thing} in a box. {one} carried the box to the {rooms[0]}. "
        text += f"{two} went to the {rooms[1]}. Where is the {thing}?"
        ways = [f"In the {room}" for room in rooms]
        return chosen("reasoning", question(text), ways[0], ways[1:])

    def kinds() -> Line:
        (one, two), colors = pick(facts.ANIMALS, 2), pick(facts.COLORS, 4)
        (name,) = pick(facts.NAMES, 1)
        text = f"On this farm all {one} are {colors[0]} and all {two} are {colors[1]}. {name} is "
        text += f"one of the {one}. What color is {name}?"
        ways = [color.capitalize() for color in colors]
        return chosen("reasoning", question(text), ways[0], ways[1:])

    def weekday() -> Line:
        today, (ahead, text) = rng.randrange(7), rng.choice(facts.DAYS)
        right = week[(today + ahead) % 7]
        query = f"Today is {week[today]}. What day {text}?"
        wrong = rng.sample([day for day in week if day not in (right, week[today])], 3)
        return chosen("reasoning", question(query), right, wrong)

    def row() -> Line:
        step, start = rng.randint(2, 10), rng.randint(1, 20)
        numbers = [start + step * n for n in range(6)]
        text = f"What is the next number in the row {', '.join(map(str, numbers[:5]))}?"
        return chosen("reasoning", question(text), str(numbers[5]), near(rng, numbers[5]))

    def story() -> Line:
        (one, two), (fruit,) = pick(facts.NAMES, 2), pick(facts.FRUIT, 1)
        has, gets, gives = rng.randint(5, 12), rng.randint(2, 6), rng.randint(2, 4)
        text = f"{one} has {has} {fruit}. {one} buys {gets} more and gives {gives} to {two}. "
        text += f"How many {fruit} does {one} have now?"
        right = has + gets - gives
        return chosen("reasoning", question(text), str(right), near(rng, right))

    def worked(make: Callable[[], Line]) -> Line:
        *shots, last = (make() for _ in range(3))
        shown = "".join(f"{shot['prompt']} {shot['choices'][0]}\n\n" for shot in shots)
        return last | {"prompt": shown + last["prompt"]}

    templates = (order, place, kinds, weekday, row, story)
    lines = [line for m in templates for line in distinct(lambda m=m: worked(m), 20)]
    return balanced(lines, rng)


SETS = (arithmetic, code, extraction, knowledge, language, reasoning)


def main() -> None:
    """Write all sets."""
    FOLDER.mkdir(exist_ok=True)
    for make in SETS:
        lines = make(Random(f"{SEED} {make.__name__}"))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (FOLDER / f"{make.__name__}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
