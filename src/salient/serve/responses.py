"""A request to a service, answered whole or as a stream, for as long as its client is there."""

import asyncio
from typing import Any

from fastapi import Request
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, Response, StreamingResponse

from .completions import Make, RunningJob, Service
from .error_responses import refused
from .protocol import BaseRequest


async def respond(service: Service, make: Make, asked: BaseRequest, request: Request) -> Response:
    """The response to `asked`. Raises RequestError, and ResourceError where too many wait."""
    if asked.model is not None and asked.model != service.model:
        return no_model(asked.model, service)
    # Tokenizing a long prompt takes a while; other requests go on meanwhile.
    job = await asyncio.to_thread(make, asked, service.worker.engine)
    running = service.enter(job)
    if asked.stream:
        # A client may go before the first event, and the events would never be begun nor ended.
        gone = BackgroundTask(running.close)
        events = running.events(asked)
        return StreamingResponse(events, media_type="text/event-stream", background=gone)
    try:
        return JSONResponse(await _unless_gone(request, running))
    finally:
        running.close()


async def _unless_gone(request: Request, running: RunningJob) -> dict[str, Any]:
    """The whole response; cancelled as soon as the client has gone."""
    work = asyncio.ensure_future(running.whole())
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else {}
    finally:
        work.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def no_model(name: str, service: Service) -> JSONResponse:
    """That a model of this name is not served."""
    words = f"There is no model {name[:200]!r} here; this server has {service.model!r}."
    return refused(words, 404, "NotFoundError", "model")
