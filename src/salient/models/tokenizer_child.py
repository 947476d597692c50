"""The program of the process that tries a tokenizer.json: its fault, if any, as a line of JSON.

A tokenizer is a program from a stranger: rules that replace text by more text, and regular
expressions. `tokenizer_check.py` starts this file, which bounds its own memory and time, reads the
file, refuses rules that grow, and encodes and decodes a few texts. It imports neither Salient nor
Transformers.
"""

import contextlib
import json
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any

MOST_TOKENS = 2**20  # of a vocabulary; XLM-V has 901,629
MOST_ADDED = 2**17  # codec models have 65,536 of sound
LARGEST_ID = 2**31 - 1
MOST_STEPS = 256  # of a normalizer, of a template
MOST_GROWTH = 64  # letters for one letter; the largest of Unicode's own forms is 18
MOST_ADDED_IDS = 4096  # that a template adds to a text
LONGEST_TOKEN = 2**14  # letters
MOST_PADDING = 2**20  # tokens
DEEPEST = 100
# Bytes of address space and seconds of a core: at least, and for each byte of the file.
LEAST_MEMORY, MEMORY_FACTOR = 640 * 2**20, 16
LEAST_SECONDS, SECONDS_FACTOR = 4.0, 0.25e-6
PIECES = ("a", "Ab", " ", "\n", "7", "-", "the quick brown fox, ", "été ", "公园", "😀", "\t\r\0x")
PIECE_BYTES = 1500  # of a text that repeats a piece
TOKENS_EACH = 8  # for a byte of text; a byte-level tokenizer has 1


class Fault(BaseException):
    """What is wrong with the file, as the end of a sentence that begins with its name."""


def check(path: str) -> str:
    """The error with which the library refuses the file, '' if it loads it.

    Raises Fault for a tokenizer that is not to be loaded.
    """
    with open(path, "rb") as file:
        document = json.loads(file.read())
    if not isinstance(document, dict):
        raise Fault("holds no JSON object")
    _check_counts(document)
    _check_growth(document)
    return _try(path)


def _check_counts(document: dict[str, Any]) -> None:
    model = document.get("model")
    model = model if isinstance(model, dict) else {}
    vocabulary = model.get("vocab")
    added = document.get("added_tokens")
    counts = {"tokens": (vocabulary, MOST_TOKENS), "added tokens": (added, MOST_ADDED)}
    for name, (values, most) in counts.items():
        if isinstance(values, (dict, list)) and len(values) > most:
            raise Fault(f"has {len(values)} {name}; at most {most} fit")
    for row in added if isinstance(added, list) else ():
        text, number = (row.get("content"), row.get("id")) if isinstance(row, dict) else ("", 0)
        if isinstance(text, str) and len(text) > LONGEST_TOKEN:
            raise Fault(f"has an added token of {len(text)} letters")
        if isinstance(number, int) and number > LARGEST_ID:
            raise Fault(f"has an added token with the id {number}; at most {LARGEST_ID} fits")
    if isinstance(vocabulary, dict):
        largest = max((n for n in vocabulary.values() if isinstance(n, int)), default=0)
        if largest > LARGEST_ID:
            raise Fault(f"has a token with the id {largest}; at most {LARGEST_ID} fits")
    padding = document.get("padding")
    strategy = padding.get("strategy") if isinstance(padding, dict) else None
    length = strategy.get("Fixed") if isinstance(strategy, dict) else None
    multiple = padding.get("pad_to_multiple_of") if isinstance(padding, dict) else None
    for number in (length, multiple):
        if isinstance(number, int) and number > MOST_PADDING:
            raise Fault(f"pads every text to {number} tokens")


def _check_growth(document: dict[str, Any]) -> None:
    """Refuse rules that can make far more text of a text than it has."""
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        growth = 1.0
        for count, step in enumerate(_objects(document.get(part))):
            if count > MOST_STEPS:
                raise Fault(f"has a {part} of more than {MOST_STEPS} steps")
            growth *= _growth(step)
            if growth > MOST_GROWTH:
                raise Fault(f"has a {part} that can make {growth:.0f} letters of one")
    count = 0
    for item in _objects(document.get("post_processor")):
        count += 1 + len(item["ids"]) if isinstance(item.get("ids"), list) else 1
        if count > MOST_ADDED_IDS:
            raise Fault(f"has a post_processor that adds more than {MOST_ADDED_IDS} tokens")


def _growth(step: dict[str, Any]) -> float:
    """Letters that a rule can write for each that it reads."""
    content, pattern = step.get("content"), step.get("pattern")
    if step.get("type") == "Prepend" and isinstance(step.get("prepend"), str):
        return max(1, len(step["prepend"]))
    if step.get("type") != "Replace" or not isinstance(content, str):
        return 1
    text = pattern.get("String") if isinstance(pattern, dict) else None
    # An expression may match no letter, and then writes before each.
    return max(1.0, len(content) / len(text)) if text else 1.0 + len(content)


def _objects(value: object) -> Iterator[dict[str, Any]]:
    """The objects in `value`, at any depth."""
    level = [value]
    for _ in range(DEEPEST):
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                yield each
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        if not inner:
            return
        level = inner
    raise Fault(f"has more than {DEEPEST} lists and objects in each other")


def _try(path: str) -> str:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # noqa: BLE001  Transformers may read it, and says more if not
        return _reason(error)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for piece in PIECES:
        text = piece * (PIECE_BYTES // len(piece.encode()))
        with contextlib.suppress(Exception):  # of a vocabulary that lacks the piece
            _try_text(tokenizer, text)
    return ""


def _try_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text).ids
    if len(ids) > TOKENS_EACH * PIECE_BYTES + MOST_ADDED_IDS:
        raise Fault(f"makes {len(ids)} tokens of {len(text)} letters")
    letters = len(tokenizer.decode(ids[:PIECE_BYTES], skip_special_tokens=False))
    if letters > MOST_GROWTH * LONGEST_TOKEN:
        raise Fault(f"makes {letters} letters of {len(ids)} tokens")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _limit(kind: int, value: float) -> None:
    with contextlib.suppress(ValueError, OSError):  # not on every system
        resource.setrlimit(kind, (int(value), resource.getrlimit(kind)[1]))


def main() -> None:
    """Check the file that the command line names."""
    path = sys.argv[1]
    size = os.path.getsize(path)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, LEAST_MEMORY + MEMORY_FACTOR * size)
    _limit(resource.RLIMIT_CPU, 1 + LEAST_SECONDS + SECONDS_FACTOR * size)
    fault = refusal = ""
    try:
        refusal = check(path)
    except Fault as error:
        fault = str(error)
    except MemoryError:
        fault = "takes more memory than its size explains"
    except RecursionError:
        fault = f"has more than {DEEPEST} lists and objects in each other"
    except (ValueError, OSError):  # no JSON: its reader says where
        fault = ""
    except BaseException as error:  # noqa: BLE001  a panic of Rust
        fault = f"fails on a plain text ({_reason(error)})"
    with os.fdopen(os.dup(1), "wb") as out:
        out.write(json.dumps({"fault": fault, "refusal": refusal}).encode())


if __name__ == "__main__":
    main()
