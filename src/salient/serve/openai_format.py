"""An engine's pieces as the objects of OpenAI's API."""

from dataclasses import dataclass, field
from typing import Any

from salient.runtime.sampling_params import SampledToken
from salient.runtime.token_sequence import StepOutput


@dataclass
class ChoiceState:
    """One answer as it grows. offset: characters of its text so far"""

    index: int
    tokenizer: Any
    text: str = ""
    finished: str = ""
    tokens: int = 0
    picked: list[SampledToken] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def take(self, piece: StepOutput) -> None:
        """Add a piece."""
        if piece.picked is not None:
            self.tokens += 1
            self.picked.append(piece.picked)
            self.offsets.append(len(self.text))
        self.text += piece.text
        self.finished = piece.finished or self.finished

    @property
    def finish_reason(self) -> str | None:
        """OpenAI knows 'stop' and 'length'."""
        return None if not self.finished else "length" if self.finished == "length" else "stop"


def token_text(tokenizer: Any, token: int) -> str:
    """A token's own text; special tokens show their names."""
    return tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)


def completion_logprobs(
    tokenizer: Any, picked: list[SampledToken], offsets: list[int]
) -> dict[str, Any]:
    """The `logprobs` of a completion's choice."""
    return {
        "tokens": [token_text(tokenizer, p.token) for p in picked],
        "token_logprobs": [p.logprob for p in picked],
        "top_logprobs": [_by_text(tokenizer, p) if p.top else None for p in picked],
        "text_offset": offsets,
    }


def chat_logprobs(tokenizer: Any, picked: list[SampledToken]) -> dict[str, Any]:
    """The `logprobs` of a chat completion's choice."""
    return {
        "content": [
            {
                **_chat_token(tokenizer, p.token, p.logprob),
                "top_logprobs": [_chat_token(tokenizer, t, v) for t, v in p.top],
            }
            for p in picked
        ],
        "refusal": None,
    }


def _chat_token(tokenizer: Any, token: int, logprob: float | None) -> dict[str, Any]:
    text = token_text(tokenizer, token)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _by_text(tokenizer: Any, picked: SampledToken) -> dict[str, float | None]:
    """Tokens by text; of those that read alike, such as parts of characters, the likeliest."""
    found: dict[str, float | None] = {}
    for token, logprob in _with_chosen(picked):
        found.setdefault(token_text(tokenizer, token), logprob)
    return found


def _with_chosen(picked: SampledToken) -> list[tuple[int, float | None]]:
    """The likeliest tokens, and the chosen one if it is none of them."""
    known = any(token == picked.token for token, _ in picked.top)
    return [*picked.top, *([] if known else [(picked.token, picked.logprob)])]


def usage(prompt_tokens: int, choices: list[ChoiceState]) -> dict[str, int]:
    """The counts of tokens."""
    made = sum(choice.tokens for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": made,
        "total_tokens": prompt_tokens + made,
    }
