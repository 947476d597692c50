"""Responses and errors of OpenAI's API. Errors name the client's fault, no detail of the server."""

from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from salient.core.errors import RequestError, ResourceError, SalientError
from salient.runtime.sampling_params import SampledToken
from salient.runtime.token_sequence import StepOutput

INVALID, OVERLOADED, INTERNAL = "invalid_request_error", "rate_limit_error", "server_error"
RETRY_SECONDS = 1


@dataclass
class ChoiceState:
    """A choice while it is generated.

    logprobs, token_ids: whether the response has them   offsets: of the tokens in the text
    """

    index: int
    tokenizer: Any
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

    def complete(self) -> dict[str, Any]:
        """The finished choice of a response that is not streamed."""
        message = {"role": "assistant", "content": self.text, "refusal": None}
        content = {"message": message} if self.chat else {"text": self.text}
        return {"index": self.index, **content, **self._end(0)}

    def opening(self) -> dict[str, Any]:
        """The first chunk of a chat's stream."""
        delta = {"role": "assistant", "content": ""}
        return {"index": self.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, output: StepOutput) -> dict[str, Any]:
        """The chunk of `output`, which was added last."""
        delta = {"content": output.text} if output.text else {}
        content = {"delta": delta} if self.chat else {"text": output.text}
        start = len(self.picked) - (output.picked is not None)
        return {"index": self.index, **content, **self._end(start)}

    def _end(self, start: int) -> dict[str, Any]:
        """Finish reason; log probabilities and ids of the tokens from `start` on."""
        picked, logprobs = self.picked[start:], None
        if self.logprobs and self.chat:
            logprobs = chat_logprobs(self.tokenizer, picked)
        elif self.logprobs:
            logprobs = completion_logprobs(self.tokenizer, picked, self.offsets[start:])
        reason = {"": None, "length": "length"}.get(self.finished, "stop")  # all that OpenAI has
        end: dict[str, Any] = {"logprobs": logprobs, "finish_reason": reason}
        return end | ({"token_ids": [p.token for p in picked]} if self.token_ids else {})


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
    content = [
        {
            **_chat_token(tokenizer, p.token, p.logprob),
            "top_logprobs": [_chat_token(tokenizer, t, v) for t, v in p.top],
        }
        for p in picked
    ]
    return {"content": content, "refusal": None}


def _chat_token(tokenizer: Any, token: int, logprob: float | None) -> dict[str, Any]:
    text = token_text(tokenizer, token)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _by_text(tokenizer: Any, picked: SampledToken) -> dict[str, float | None]:
    """Top tokens, and the sampled one, by text; of equal texts (parts of characters) the first."""
    logprobs: dict[str, float | None] = {}
    for token, logprob in picked.top:
        logprobs.setdefault(token_text(tokenizer, token), logprob)
    if all(token != picked.token for token, _ in picked.top):
        logprobs.setdefault(token_text(tokenizer, picked.token), picked.logprob)
    return logprobs


def usage(prompt_tokens: int, choices: list[ChoiceState]) -> dict[str, int]:
    """The token counts."""
    count = sum(len(choice.picked) for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": count,
        "total_tokens": prompt_tokens + count,
    }


def error_body(
    message: str, kind: str, param: str | None, code: int | str | None
) -> dict[str, Any]:
    """The error object of responses and streams."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    message: str, status: int = 400, kind: str = INVALID, param: str | None = None
) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else None
    return JSONResponse(error_body(message, kind, param, status), status, headers)


def response_to(error: SalientError, *, alive: bool = True) -> JSONResponse:
    """The response to Salient's own errors; without details unless the request is at fault."""
    if isinstance(error, RequestError):
        return error_response(str(error))
    if isinstance(error, ResourceError):
        status, kind = (429, OVERLOADED) if alive else (503, INTERNAL)
        return error_response(str(error), status, kind)
    return error_response("The model failed. The server's log says why.", 500, INTERNAL)
