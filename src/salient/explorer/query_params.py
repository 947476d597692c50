"""What the page may ask, all of it bounded; no file is ever named by a request."""

from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, Field, model_validator

from salient.serve.protocol import MOST_MESSAGES, ChatMessage, Text

LONGEST_ANSWER = 2**16  # characters

Block = Annotated[int, Query(ge=0, lt=10_000)]
Layer = Annotated[str, Query(min_length=1, max_length=300)]
Row = Annotated[int, Query(ge=0, lt=2**31)]
Bits = Annotated[int, Query(ge=2, le=8)]
GroupSize = Annotated[int, Query(ge=1, le=4096)]
Clip = Annotated[float, Query(ge=0.1, le=1.0, allow_inf_nan=False)]
Exponent = Annotated[float, Query(ge=-2.0, le=2.0, allow_inf_nan=False)]


class ForcedAnswer(BaseModel):
    """A conversation, or a plain prompt, and the answer whose tokens both models are given."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)] | None = (
        None
    )
    prompt: Text | None = None
    answer: Annotated[str, Field(min_length=1, max_length=LONGEST_ANSWER)]

    @model_validator(mode="after")
    def _one_of_both(self) -> "ForcedAnswer":
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give either messages or a prompt")
        return self
