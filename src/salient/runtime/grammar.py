"""Structured output: constrain answers to JSON with llguidance (extra `serve`).

The token mask is computed after every token, from the grammar of a JSON Schema. A constraint
belongs to one answer; `fresh` copies it in its initial state.
"""

import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import MissingExtra, ModelError, RequestError

ANY_OBJECT = {"type": "object"}
SPACE = r"( |\n {0,8})?"  # between values: a small model may emit spaces for ever
LONGEST_REASON = 300  # characters of the library's message


class Constraint:
    """The tokens that may come next.

    ended: whether the answer is complete
    """

    def __init__(self, matcher: Any):
        self._matcher = matcher
        self.ended = False

    def fresh(self) -> "Constraint":
        """The same constraint for another answer. Call it before the first token."""
        return Constraint(self._matcher.deep_copy())

    def allowed(self, scores: Tensor) -> Tensor:
        """`scores` [vocab], minus infinity for forbidden tokens; a copy."""
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        each = (bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        may = each.flatten()[: len(scores)].bool().to(scores.device)
        if len(may) < len(scores):  # ids that no token has
            may = torch.nn.functional.pad(may, (0, len(scores) - len(may)))
        if not bool(may.any()):
            raise ModelError(f"The grammar allows no token: {self._matcher.get_error()[:200]}")
        return scores.masked_fill(~may, float("-inf"))

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self.ended = self._matcher.is_stopped()


class Grammars:
    """Compiles constraints for one tokenizer.

    vocabulary: how many ids the model has   ends: tokens that may follow a complete answer
    """

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Iterable[int]):
        try:
            from llguidance import hf
        except ImportError:
            raise MissingExtra(
                "JSON answers need the library llguidance. Install it with: "
                "pip install 'salient-awq[serve]'"
            ) from None
        try:
            self._tokens = hf.from_tokenizer(
                tokenizer, n_vocab=vocabulary, eos_token=sorted(ends) or None
            )
        except ValueError as error:
            reason = str(error)[:LONGEST_REASON]
            raise RequestError(
                f"This model's tokenizer does not support JSON constraints ({reason}). Leave "
                "response_format out."
            ) from None

    def json(self, schema: dict[str, Any] | None = None) -> Constraint:
        """Answers that are JSON by `schema`, a JSON Schema; any object if None.

        Raises RequestError for a schema that cannot be followed.
        """
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(
                json.dumps(schema or ANY_OBJECT), defaults={"whitespace_pattern": SPACE}
            )
            reason = LLMatcher.validate_grammar(grammar, self._tokens)
        except (ValueError, RecursionError) as error:
            reason = str(error)
        if reason:
            raise RequestError(
                f"The JSON Schema cannot be followed: {reason.strip()[:LONGEST_REASON]}. Fix it, "
                "or ask for type json_object."
            )
        return Constraint(LLMatcher(self._tokens, grammar, log_level=0))
