"""Responses and errors of OpenAI's API. Errors name the client's fault, no detail of the server."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from starlette.responses import JSONResponse

from salient.core.errors import RequestError, ResourceError, SalientError
from salient.runtime.sampling_params import SampledToken
from salient.runtime.sequence import StepOutput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INVALID, OVERLOADED, INTERNAL = "invalid_request_error", "rate_limit_error", "server_error"
RETRY_SECONDS = 1
PIECE = 256  # elements of a list
JsonObject = dict[str, object]


@dataclass
class ChoiceState:
    """A choice while it is generated.

    logprobs, token_ids: whether the response has them   offsets: of the tokens in the text
    """

    index: int
    tokenizer: "PreTrainedTokenizerBase"
    chat: bool
    logprobs: bool
    token_ids: bool
    text: str = ""
    finished: str = ""
    picked: list[SampledToken] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def add(self, output: StepOutput) -> None:
        if output.picked is not None:
            self.picked.append(output.picked)
            self.offsets.append(len(self.text))
        self.text += output.text
        self.finished = output.finished or self.finished

    def complete(self) -> JsonObject:
        """The finished choice of a response that is not streamed."""
        message = {"role": "assistant", "content": self.text, "refusal": None}
        return self._choice({"message": message} if self.chat else {"text": self.text}, 0)

    def opening(self) -> JsonObject:
        delta = {"role": "assistant", "content": ""}
        return {"index": self.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, output: StepOutput) -> JsonObject:
        """The chunk of `output`, which was added last."""
        delta = {"content": output.text} if output.text else {}
        start = len(self.picked) - (output.picked is not None)
        return self._choice({"delta": delta} if self.chat else {"text": output.text}, start)

    def _choice(self, content: JsonObject, start: int) -> JsonObject:
        """`content`; finish reason; log probabilities and ids of the tokens from `start` on."""
        picked, logprobs = self.picked[start:], None
        if self.logprobs:
            shape = self._chat_logprobs if self.chat else self._completion_logprobs
            logprobs = shape(picked, self.offsets[start:])
        reason = {"": None, "length": "length"}.get(self.finished, "stop")  # all that OpenAI has
        ids = {"token_ids": [p.token for p in picked]} if self.token_ids else {}
        end = {"logprobs": logprobs, "finish_reason": reason}
        return {"index": self.index, **content, **end, **ids}

    def _completion_logprobs(self, picked: list[SampledToken], offsets: list[int]) -> JsonObject:
        return {
            "tokens": [token_text(self.tokenizer, p.token) for p in picked],
            "token_logprobs": [p.logprob for p in picked],
            "top_logprobs": [self._by_text(p) if p.top else None for p in picked],
            "text_offset": offsets,
        }

    def _by_text(self, picked: SampledToken) -> dict[str, float | None]:
        """Top tokens, and the sampled one, by text; of equal texts (parts of characters) the
        first."""
        sampled = (picked.token, picked.logprob)
        alone = all(token != picked.token for token, _ in picked.top)
        logprobs: dict[str, float | None] = {}
        for token, logprob in [*picked.top, sampled] if alone else picked.top:
            logprobs.setdefault(token_text(self.tokenizer, token), logprob)
        return logprobs

    def _chat_logprobs(self, picked: list[SampledToken], _: list[int]) -> JsonObject:
        def entry(token: int, logprob: float | None) -> JsonObject:
            text = token_text(self.tokenizer, token)
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        content = [
            {**entry(p.token, p.logprob), "top_logprobs": [entry(*top) for top in p.top]}
            for p in picked
        ]
        return {"content": content, "refusal": None}


@lru_cache(maxsize=2**16)
def token_text(tokenizer: "PreTrainedTokenizerBase", token: int) -> str:
    """A token's own text; special tokens show their names."""
    shown = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return str(tokenizer.decode([token], **shown))


def usage(prompt_tokens: int, choices: list[ChoiceState]) -> JsonObject:
    count = sum(len(choice.picked) for choice in choices)
    total = prompt_tokens + count
    return {"prompt_tokens": prompt_tokens, "completion_tokens": count, "total_tokens": total}


def json_pieces(value: object) -> Iterator[str]:
    """`value` as JSON, in pieces: one call for all of it would hold the interpreter for long."""
    if isinstance(value, dict):
        for index, (key, item) in enumerate(cast("JsonObject", value).items()):
            yield f"{', ' if index else '{'}{json.dumps(key)}: "
            yield from json_pieces(item)
        yield "}" if value else "{}"
    elif isinstance(value, list) and len(cast("list[object]", value)) > PIECE:
        items = cast("list[object]", value)
        for start in range(0, len(items), PIECE):
            yield ", " if start else "["
            yield json.dumps(items[start : start + PIECE], ensure_ascii=False)[1:-1]
        yield "]"
    else:
        yield json.dumps(value, ensure_ascii=False)


def error_body(message: str, kind: str, param: str | None, code: int) -> JsonObject:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    message: str, status: int = 400, kind: str = INVALID, param: str | None = None
) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else None
    return JSONResponse(error_body(message, kind, param, status), status, headers)


def response_to(error: SalientError, *, alive: bool) -> JSONResponse:
    """The response to Salient's own errors; without details unless the request is at fault."""
    if isinstance(error, RequestError):
        return error_response(str(error))
    if isinstance(error, ResourceError):
        status, kind = (429, OVERLOADED) if alive else (503, INTERNAL)
        return error_response(str(error), status, kind)
    return error_response("The model failed. The server's log says why.", 500, INTERNAL)
