"""Tokens -> text, one token at a time, and stop strings.

A token is not a piece of text. A character may take several tokens, SentencePiece writes the space
before a word that is not the first, and a stop string begins and ends anywhere. So each push
decodes a short window: tokens whose text is emitted, for context, and pending ones.
The window's text minus the context's is new. It is emitted once it is final: it ends in a whole
character, and not in the beginning of a stop string.

Special tokens have no text and are not in the window. Invalid UTF-8 becomes U+FFFD.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a decoder puts for bytes that are no whole character
MOST_CONTEXT = 8  # tokens of a prompt: those of two characters, the last not whole
MOST_PENDING = 32  # tokens in which every text has a border between characters
INCOMPLETE = 3  # bytes of a character at most, when it is not whole


class TextStream:
    """The text of one answer, as its tokens come.

    The pieces, joined, are what `tokenizer` decodes all the tokens to after `prompt_ids`, cut
    before the first stop string. The cost of a token does not grow with the text.

    Bytes that are no UTF-8 may read otherwise than in one decoding of everything: a SentencePiece
    decoder then takes back whole characters around them, and what is out is out.
    """

    def __init__(self, tokenizer: Any, prompt_ids: Sequence[int] = (), stop: Sequence[str] = ()):
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self._special = {i for i, token in added if token.special} | set(tokenizer.all_special_ids)
        self._stops = StopStrings(stop)
        self._pieces: list[str] = []
        self._pending: list[int] = []  # tokens whose text is not out
        self._context: list[int] = []  # tokens before them
        self._shown = ""  # the text of the window that is out
        self._set_context(prompt_ids)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def stopped_by(self) -> str | None:
        """The matched stop string, after which nothing is emitted."""
        return self._stops.match

    def push(self, token: int) -> str:
        """The text that is final after `token`; often empty."""
        if not self._has_text(token):
            return ""
        self._pending.append(token)
        window = self._decode(self._context + self._pending)
        fresh = self._new_text(window)
        if not window.endswith(BROKEN):
            self._context, self._pending = self._pending, []
            self._shown = self._decode(self._context)
        elif len(self._pending) < MOST_PENDING:
            return ""
        else:
            fresh = self._flush_incomplete(fresh)
        return self._emit(self._stops.push(fresh))

    def finish(self) -> str:
        """The rest of the text, after the last token."""
        fresh = self._new_text(self._decode(self._context + self._pending)) if self._pending else ""
        self._pending = []
        return self._emit(self._stops.push(fresh) + self._stops.finish())

    def _set_context(self, prompt_ids: Sequence[int]) -> None:
        """Set the context to the prompt's end: the fewest tokens that end in whole characters.

        A context that began inside a character would spoil the bytes that follow it. Where the
        prompt itself ends inside one, that character's beginning waits for the rest.
        """
        end = [*islice(filter(self._has_text, reversed(prompt_ids)), MOST_CONTEXT)][::-1]
        self._context, self._shown = end, self._decode(end)
        for cut in range(len(end), max(len(end) - INCOMPLETE, 0) - 1, -1):
            for start in range(cut - 1, -1, -1):
                text = self._decode(end[start:cut])
                if text and not text.endswith(BROKEN):
                    self._pending = end[cut:]
                    self._context = [] if self._pending else end[start:]
                    self._shown = self._decode(self._context + self._pending)
                    return

    def _has_text(self, token: int) -> bool:
        """Whether `token` has text: models have more ids than their tokenizers."""
        known = self._tokenizer.convert_ids_to_tokens(token) is not None
        return known and token not in self._special

    def _decode(self, ids: list[int]) -> str:
        if not ids:
            return ""
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _new_text(self, window: str) -> str:
        """What `window`, the text of context and pending tokens, adds to the text shown."""
        if window.startswith(self._shown):
            return window[len(self._shown) :]
        if self._shown.endswith(BROKEN):  # the prompt ended inside a character, now whole
            return window.removeprefix(self._shown.rstrip(BROKEN))
        # A run of bytes goes on from the context and is no UTF-8: the decoder gave up all of it
        return self._decode(self._pending)

    def _flush_incomplete(self, fresh: str) -> str:
        """Flush the final part of a window that never ends in a whole character.

        Returns `fresh` without the end that later tokens may still change.
        """
        certain = fresh.rstrip(BROKEN)
        certain = fresh[: max(len(certain), len(fresh) - INCOMPLETE)]
        uncertain = len(fresh) - len(certain)
        self._context, self._pending = self._pending, []
        shown = self._decode(self._context)
        self._shown = shown[: len(shown) - uncertain]
        return certain

    def _emit(self, text: str) -> str:
        if text:
            self._pieces.append(text)
        return text


class StopStrings:
    """Passes text up to the first stop string, however it is split.

    The first is the one that is complete first; of those that end together, the longest.
    """

    def __init__(self, stop: Sequence[str]):
        self._stop = tuple(stop)
        self._tail = ""  # could begin a stop string
        self.match: str | None = None

    def push(self, text: str) -> str:
        """The text that is certainly before any stop string."""
        if self.match is not None:
            return ""
        text = self._tail + text
        self._tail = ""
        ends = [(at + len(s), -len(s), s) for s in self._stop if (at := text.find(s)) >= 0]
        if ends:
            end, _, self.match = min(ends)
            return text[: end - len(self.match)]
        # the longest end of the text that begins a stop string
        longest = min(len(text), max(map(len, self._stop), default=1) - 1)
        sizes = (
            n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in self._stop)
        )
        border = len(text) - next(sizes, 0)
        self._tail = text[border:]
        return text[:border]

    def finish(self) -> str:
        """The withheld text, which is not a stop string."""
        tail, self._tail = self._tail, ""
        return tail
