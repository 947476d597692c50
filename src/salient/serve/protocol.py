"""Request bodies of OpenAI's API, with the fields that vLLM adds; all bounded.

Unsupported fields that would change the response are refused by name. Other unknown fields are
ignored, as in vLLM.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    WithJsonSchema,
    model_validator,
)

from salient.runtime.sampling_params import MOST_STOPS, SamplingParams

MAX_PROMPTS, MAX_CHOICES, MAX_MESSAGES = 64, 16, 1024
MAX_TEXT = 2**21  # characters of one text; the body has its own limit
MAX_TOKENS = 2**20  # of one prompt
MAX_SCHEMA, MAX_SCHEMA_TEXT = 2**16, 2**11  # characters of a JSON Schema, of a text in it
MAX_TOKENIZE, MAX_DETOKENIZE = 2**18, 2**16  # characters, tokens of one request
DEFAULT_TOKENS = 16  # of a completion, as in OpenAI's API

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Token = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Limit = Annotated[int, Field(ge=1, strict=True)] | None
Count = Annotated[int, Field(ge=1, le=MAX_CHOICES, strict=True)] | None
Logprobs = Annotated[int, Field(ge=0, le=20, strict=True)] | None
# fields with the names of SamplingParams
_SAMPLING = {
    *("temperature", "top_p", "top_k", "min_p", "ignore_eos"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
}
# field -> the values that change nothing, in addition to null
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "suffix": ("",),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "use_beam_search": (False,),
    **dict.fromkeys(("audio", "structured_outputs", "prompt_logprobs"), ()),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), ()),
}


def token_ids(value: object, most: int = MAX_TOKENS) -> list[int]:
    """`value` if it is a list of token ids. Raises ValueError.

    Each check is one call for all of them: a million wrong ids cost no more than one.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("give at least one token id")
    ids = cast("list[object]", value)
    if len(ids) > most:
        raise ValueError(f"{len(ids)} token ids are too many; give up to {most}")
    if set(map(type, ids)) != {int}:
        raise ValueError("give only token ids (integers), only texts, or only lists of token ids")
    tokens = cast("list[int]", ids)
    if min(tokens) < 0 or max(tokens) >= 2**31:
        raise ValueError("token ids are integers from 0 up to the size of the vocabulary")
    return tokens


def _prompts(value: object) -> list[str | list[int]]:
    """Each prompt of a request, as text or as tokens. Raises ValueError."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("give a text, a list of token ids, or a list of either")
    items = cast("list[object]", value)
    if not isinstance(items[0], (str, list)):
        return [token_ids(items)]
    if len(items) > MAX_PROMPTS:
        raise ValueError(f"{len(items)} prompts are too many; give up to {MAX_PROMPTS}")
    if not isinstance(items[0], str):
        return [token_ids(item) for item in items]
    if set(map(type, items)) != {str}:
        raise ValueError("give only texts, or only lists of token ids")
    texts = cast("list[str]", items)
    if max(map(len, texts)) > MAX_TEXT:
        raise ValueError(f"a text has more than {MAX_TEXT} characters")
    return [*texts]


_TEXT: dict[str, object] = {"type": "string", "maxLength": MAX_TEXT}
_TOKENS: dict[str, object] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0},
    "minItems": 1,
}
_SEVERAL = {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS}
Prompts = Annotated[
    list[str | list[int]],
    PlainValidator(_prompts),
    WithJsonSchema(
        {"anyOf": [_TEXT, _TOKENS, {**_SEVERAL, "items": _TEXT}, {**_SEVERAL, "items": _TOKENS}]}
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")


def _texts(value: object) -> Iterator[str]:
    """All names and texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in cast("dict[str, object]", value).items():
            yield name
            yield from _texts(item)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _texts(item)


class StreamOptions(_Body):
    include_usage: StrictBool | None = None


class JsonSchema(_Body):
    name: Annotated[str, Field(max_length=200)] | None = None
    schema_: Annotated[dict[str, object] | None, Field(alias="schema")] = None

    @model_validator(mode="after")
    def _check_size(self) -> "JsonSchema":
        """What a grammar costs, at each token, grows with its longest text."""
        if len(json.dumps(self.schema_)) > MAX_SCHEMA:
            raise ValueError(f"the schema has more than {MAX_SCHEMA} characters")
        if max(map(len, _texts(self.schema_)), default=0) > MAX_SCHEMA_TEXT:
            raise ValueError(f"a text in the schema has more than {MAX_SCHEMA_TEXT} characters")
        return self


class ResponseFormat(_Body):
    """json_object: any JSON object; json_schema: one that matches the schema"""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _require_schema(self) -> "ResponseFormat":
        if self.type == "json_schema" and (
            self.json_schema is None or not self.json_schema.schema_
        ):
            raise ValueError("type json_schema needs json_schema: {name, schema}")
        return self


class BaseRequest(_Body):
    """Fields of both kinds of request."""

    model: Annotated[str, Field(max_length=1000)] | None = None
    n: Count = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stop_token_ids: Annotated[list[Token], Field(max_length=64)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63, strict=True)] | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Annotated[int, Field(strict=True)] | None = None
    min_p: Number | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: Number | None = None
    ignore_eos: StrictBool | None = None
    return_token_ids: StrictBool | None = None
    user: Annotated[str, Field(max_length=1000)] | None = None

    @model_validator(mode="after")
    def _refuse(self) -> "BaseRequest":
        for name, value in (self.model_extra or {}).items():
            if value is not None and value not in _UNSUPPORTED.get(name, (value,)):
                raise ValueError(f"{name} is not supported by this server; leave it out")
        return self

    @property
    def choices(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, limit: int, logprobs: int | None, choice: int = 0) -> SamplingParams:
        """The sampling parameters of one choice. Raises RequestError for invalid values."""
        fields = {"temperature": 1.0, **self.model_dump(include=_SAMPLING, exclude_none=True)}
        if self.top_k == -1:  # no limit, as in vLLM
            del fields["top_k"]
        if self.seed is not None:
            fields["seed"] = (self.seed + choice) % 2**63
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        stop_tokens = tuple(self.stop_token_ids or ())
        params = SamplingParams(
            limit, stop=stop, stop_tokens=stop_tokens, logprobs=logprobs, **fields
        )
        params.check()
        return params


class CompletionRequest(BaseRequest):
    """POST /v1/completions."""

    prompt: Prompts
    max_tokens: Limit = None
    logprobs: Logprobs = None
    echo: Literal[False] | None = None
    best_of: Count = None

    @model_validator(mode="after")
    def _one_ranking(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of != self.choices:
            raise ValueError("best_of other than n is not supported by this server; leave it out")
        return self


class TextPart(_Body):
    type: Literal["text"]
    text: Text


class ChatMessage(_Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(max_length=64)] | None = None

    @property
    def plain(self) -> dict[str, Any]:
        """The message for a chat template, with all other keys, such as tool_calls."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        role = "system" if self.role == "developer" else self.role
        return {**(self.model_extra or {}), "role": role, "content": content or ""}


ChatMessages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]


class ChatCompletionRequest(BaseRequest):
    """POST /v1/chat/completions."""

    messages: ChatMessages
    max_tokens: Limit = None
    max_completion_tokens: Limit = None
    logprobs: StrictBool | None = None
    top_logprobs: Logprobs = None

    @model_validator(mode="after")
    def _logprobs_first(self) -> "ChatCompletionRequest":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TokenizeRequest(_Body):
    """POST /tokenize."""

    prompt: Annotated[str, Field(max_length=MAX_TOKENIZE)]
    add_special_tokens: StrictBool | None = None


class DetokenizeRequest(_Body):
    """POST /detokenize."""

    tokens: Annotated[
        list[int],
        PlainValidator(lambda value: token_ids(value, MAX_DETOKENIZE)),
        WithJsonSchema({**_TOKENS, "maxItems": MAX_DETOKENIZE}),
    ]
