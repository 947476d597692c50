"""Errors in the shape of OpenAI's API: they say what the client did wrong and nothing of ours."""

from typing import Any

from starlette.responses import JSONResponse

from salient.core.errors import RequestError, ResourceError, SalientError

INVALID, OVERLOADED, INTERNAL = "invalid_request_error", "rate_limit_error", "server_error"
RETRY_SECONDS = 1


def refused(
    message: str, status: int = 400, kind: str = INVALID, param: str | None = None
) -> JSONResponse:
    """An error's response."""
    headers = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else None
    return JSONResponse(body_of(message, kind, param, status), status, headers)


def body_of(message: str, kind: str, param: str | None, code: int | str | None) -> dict[str, Any]:
    """The error object, as it stands in a response and in a stream."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def response_to(error: SalientError, *, alive: bool = True) -> JSONResponse:
    """The response to an error of ours; whatever is no fault of the request tells no details."""
    if isinstance(error, RequestError):
        return refused(str(error))
    if isinstance(error, ResourceError) and alive:
        return refused(str(error), 429, OVERLOADED)
    if isinstance(error, ResourceError):
        return refused(str(error), 503, INTERNAL)
    return refused("The model could not answer. The server's log says why.", 500, INTERNAL)
