"""Bodies of requests: received in time, measured, then read off the event loop."""

import json
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from salient.core.errors import RequestError

from .bounded_threads import BoundedThreads, request_threads
from .json_size import check_size

Body = TypeVar("Body", bound=BaseModel)
REFERENCES = "#/components/schemas/{model}"


async def read_body(
    request: Request, model: type[Body], *, chat: bool = False
) -> tuple[Body, BoundedThreads]:
    """The body as a `model`, and the threads for further work on it.

    Raises RequestError, RequestValidationError and ResourceError.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and "+json" in kind):
        # else any page could send it: browsers ask no one before they post plain text
        raise RequestError("The body needs the header 'Content-Type: application/json'.")
    data = await request.body()
    threads = request_threads.of(len(data), chat=chat)
    return await threads.run(partial(parsed, data, model)), threads


def parsed(data: bytes, model: type[Body]) -> Body:
    """`data` as a `model`. Raises RequestError and RequestValidationError."""
    check_size(data)
    try:
        content = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise RequestError(f"The body is no JSON in UTF-8 ({reason}).") from None
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[:1]
        raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in first]) from None


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """A route's `openapi_extra` for a body that `read_body` reads."""
    schema = {"$ref": REFERENCES.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe_bodies(app: FastAPI, models: list[type[BaseModel]]) -> None:
    """Add the schemas of `models` to the app's OpenAPI document."""
    _, document = models_json_schema(
        [(model, "validation") for model in models], ref_template=REFERENCES
    )

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schema.setdefault("components", {}).setdefault("schemas", {}).update(document["$defs"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi
