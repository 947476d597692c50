"""The scanner finds the same lines as a search of every line, for any split of the bytes."""

import random

import pytest

from salient.diagnose.log.anchor_search import MAX_CASES, AnchorSearch
from salient.diagnose.log.scanner import CHUNK, EACH, FIRST, LONGEST, Scanner

ANCHORS = (
    "CUDA out of memory",
    "Falling back",
    "Falling back to kernels",
    "a 12",
    "exit code 12",
    "é—",
)


def hits(scanner: Scanner, pieces) -> list[tuple[str, int, bytes]]:
    matches = [h for piece in pieces for h in scanner.feed(piece)] + list(scanner.close())
    return [(hit.anchor, hit.line, hit.text) for hit in matches]


def by_line(text: bytes, anchors=ANCHORS) -> list[tuple[str, int, bytes]]:
    """The same by a search of every line, if no line has an anchor twice."""
    lines = text.split(b"\n")
    return sorted(
        (anchor, number, line)
        for number, line in enumerate(lines, start=1)
        for anchor in anchors
        if anchor.encode() in line
    )


def cut(text: bytes, numbers: random.Random) -> list[bytes]:
    """The text in pieces of random sizes."""
    marks = sorted(numbers.randrange(len(text) + 1) for _ in range(numbers.randrange(12)))
    return [text[a:b] for a, b in zip([0, *marks], [*marks, len(text)], strict=True)]


@pytest.mark.parametrize("seed", range(30))
def test_any_split_of_the_bytes_gives_the_same_lines(seed):
    numbers = random.Random(seed)
    parts = [
        *ANCHORS,
        "exit code 13",
        "CUDA out of",
        "— groß",
        "Falling",
        "",
        "x" * 700,
        "\t1.5, 22",
    ]
    text = "\n".join(numbers.choice(parts) for _ in range(numbers.randrange(1, 90))).encode()
    assert sorted(hits(Scanner(ANCHORS), cut(text, numbers))) == by_line(text)


def test_lines_that_differ_in_numbers_only_are_all_counted():
    text = b"".join(b"step %d: CUDA out of memory, %d MiB\n" % (i, i * i) for i in range(1000))
    scanner = Scanner(ANCHORS)
    matches = hits(scanner, [text])
    assert scanner.hits["CUDA out of memory"] == 1000
    assert [line for _, line, _ in matches] == [*range(1, FIRST + 1), 1000]


def test_a_frequent_line_is_sampled_in_later_blocks():
    piece = b"Falling back\n" * 5000
    scanner = Scanner(ANCHORS)
    assert len(hits(scanner, [piece] * 3)) == FIRST + 1 + 2 * (EACH + 1)
    assert scanner.hits["Falling back"] == 15000


def test_a_rare_line_is_matched_among_a_million_others():
    noise = b"INFO 200 OK\n" * (CHUNK // 12)
    scanner = Scanner(ANCHORS)
    matches = hits(scanner, [noise, noise, b"exit code 12\n", noise])
    assert [line for _, line, _ in matches] == [2 * (CHUNK // 12) + 1]
    assert scanner.lines == 3 * (CHUNK // 12) + 1


def test_a_line_that_never_ends_is_read_in_bounded_memory():
    scanner = Scanner(ANCHORS)
    pieces = [b"z" * CHUNK] * 20
    pieces[10] = b"z" * 1000 + b"CUDA out of memory" + b"z" * (CHUNK - 1018)
    matches = hits(scanner, pieces)
    assert [anchor for anchor, _, _ in matches] == ["CUDA out of memory"]
    assert len(matches[0][2]) < 2 * LONGEST
    assert scanner.size == 20 * CHUNK


def test_an_anchor_split_by_an_endless_line_is_matched():
    for at in range(1, 18):
        text = b"CUDA out of memory"
        scanner = Scanner(ANCHORS)
        matches = hits(scanner, [b"z" * CHUNK + text[:at], text[at:] + b"z" * CHUNK])
        assert len(matches) == 1, at


def test_progress_bars_and_windows_line_ends_end_a_line():
    text = b"loading 1%\rloading 9%\rFalling back\r\nnext\r\n"
    assert hits(Scanner(ANCHORS), [text]) == [("Falling back", 1, b"Falling back")]


def test_line_numbers_restart_with_a_new_file():
    scanner = Scanner(ANCHORS)
    assert hits(scanner, [b"one\nexit code 12\n"])[0][1] == 2
    scanner.restart()
    assert hits(scanner, [b"exit code 12\n"])[0][1] == 1


def test_the_memory_of_a_search_is_bounded():
    search = AnchorSearch(ANCHORS)
    for number in range(MAX_CASES // 500 + 2):
        search.present(b"".join(b"a 12%05d" % (number * 1000 + at) for at in range(1000)))
    assert len(search._cases) <= MAX_CASES


def test_overlapping_anchors_are_both_matched():
    anchors = ("Zoom to Mill", "Mill Quits now")
    assert hits(Scanner(anchors), [b"Zoom to Mill Quits now\n"]) == [
        ("Zoom to Mill", 1, b"Zoom to Mill Quits now"),
        ("Mill Quits now", 1, b"Zoom to Mill Quits now"),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_search_finds_the_same_anchors_as_a_comparison(seed):
    numbers = random.Random(seed)
    letters = "abcdeXYZ é\n"
    anchors = {"".join(numbers.choices(letters, k=numbers.randrange(1, 14))) for _ in range(90)}
    search = AnchorSearch(anchors)
    for _ in range(5):
        block = "".join(numbers.choices(letters, k=numbers.randrange(400))).encode()
        assert search.present(block) == {one for one in anchors if one.encode() in block}
