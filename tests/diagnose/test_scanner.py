"""The scanner gives what looking at every line would give, however the bytes come."""

import random

import pytest

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
    found = [h for piece in pieces for h in scanner.feed(piece)] + list(scanner.close())
    return [(hit.anchor, hit.line, hit.text) for hit in found]


def by_hand(text: bytes, anchors=ANCHORS) -> list[tuple[str, int, bytes]]:
    """The same by looking at every line, where no line has an anchor twice."""
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
def test_any_cut_of_the_bytes_gives_the_lines_that_hold_an_anchor(seed):
    numbers = random.Random(seed)
    words = [
        *ANCHORS,
        "exit code 13",
        "CUDA out of",
        "— groß",
        "Falling",
        "",
        "x" * 700,
        "\t1.5, 22",
    ]
    text = "\n".join(numbers.choice(words) for _ in range(numbers.randrange(1, 90))).encode()
    assert sorted(hits(Scanner(ANCHORS), cut(text, numbers))) == by_hand(text)


def test_lines_that_differ_in_numbers_alone_are_all_counted():
    text = b"".join(b"step %d: CUDA out of memory, %d MiB\n" % (i, i * i) for i in range(1000))
    scanner = Scanner(ANCHORS)
    found = hits(scanner, [text])
    assert scanner.hits["CUDA out of memory"] == 1000
    assert [line for _, line, _ in found] == [*range(1, FIRST + 1), 1000]


def test_a_frequent_line_costs_little_in_later_pieces():
    piece = b"Falling back\n" * 5000
    scanner = Scanner(ANCHORS)
    assert len(hits(scanner, [piece] * 3)) == FIRST + 1 + 2 * (EACH + 1)
    assert scanner.hits["Falling back"] == 15000


def test_a_rare_line_is_found_among_a_million_of_another_kind():
    noise = b"INFO 200 OK\n" * (CHUNK // 12)
    scanner = Scanner(ANCHORS)
    found = hits(scanner, [noise, noise, b"exit code 12\n", noise])
    assert [line for _, line, _ in found] == [2 * (CHUNK // 12) + 1]
    assert scanner.lines == 3 * (CHUNK // 12) + 1


def test_a_line_that_never_ends_is_read_in_bounded_memory():
    scanner = Scanner(ANCHORS)
    pieces = [b"z" * CHUNK] * 20
    pieces[10] = b"z" * 1000 + b"CUDA out of memory" + b"z" * (CHUNK - 1018)
    found = hits(scanner, pieces)
    assert [anchor for anchor, _, _ in found] == ["CUDA out of memory"]
    assert len(found[0][2]) < 2 * LONGEST
    assert scanner.size == 20 * CHUNK


def test_an_anchor_cut_in_two_by_an_endless_line_is_found():
    for at in range(1, 18):
        text = b"CUDA out of memory"
        scanner = Scanner(ANCHORS)
        found = hits(scanner, [b"z" * CHUNK + text[:at], text[at:] + b"z" * CHUNK])
        assert len(found) == 1, at


def test_progress_bars_and_windows_line_ends_end_a_line():
    text = b"loading 1%\rloading 9%\rFalling back\r\nnext\r\n"
    assert hits(Scanner(ANCHORS), [text]) == [("Falling back", 1, b"Falling back")]


def test_line_numbers_start_again_with_a_new_file():
    scanner = Scanner(ANCHORS)
    assert hits(scanner, [b"one\nexit code 12\n"])[0][1] == 2
    scanner.restart()
    assert hits(scanner, [b"exit code 12\n"])[0][1] == 1


def test_many_kinds_of_line_do_not_pile_up():
    numbers = random.Random(0)
    letters = "ghijklmnopqrstuvwxyz"
    scanner = Scanner(ANCHORS)
    for _ in range(4):
        lines = ("".join(numbers.choices(letters, k=12)) for _ in range(20_000))
        list(scanner.feed("\n".join(lines).encode() + b"\n"))
    assert len(scanner._known) <= 70_000


def test_anchors_that_overlap_are_both_found():
    anchors = ("Zoom to Mill", "Mill Quits now")
    assert hits(Scanner(anchors), [b"Zoom to Mill Quits now\n"]) == [
        ("Zoom to Mill", 1, b"Zoom to Mill Quits now"),
        ("Mill Quits now", 1, b"Zoom to Mill Quits now"),
    ]
