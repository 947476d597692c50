"""The explorer of a quantized toy, alone and next to a reference, served."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.engines import opened
from helpers.served_app import CHAT, ServedApp, serving, until
from salient.explorer.routes import add_explorer
from salient.explorer.state import ExplorerState
from salient.serve.app import AppSettings, create_app
from salient.serve.embedded import ServedModel
from salient.serve.worker import Worker


def served_model(folder: Path, name: str, **options: Any) -> ServedModel:
    loaded = opened(folder, **options)
    loaded.engine.tokenizer.chat_template = CHAT
    return ServedModel(name, folder, loaded, Worker(loaded.engine, 4))


def explorer_state(folder: Path, reference: Path | None = None, **options: Any) -> ExplorerState:
    """The state of the explorer; nothing runs yet."""
    other = served_model(reference, "full", **options) if reference else None
    return ExplorerState(served_model(folder, "toy", **options), other)


def measured(state: ExplorerState) -> ExplorerState:
    """The state after its pass. Later results are computed in this thread."""
    assert state.overview()
    until(lambda: state.progress["state"] in ("none", "ready", "failed"))
    return state


@contextlib.contextmanager
def explorer_app(state: ExplorerState, api_key: str | None = None) -> Iterator[ServedApp]:
    """The page and its server."""
    others = [state.reference.worker] if state.reference else []
    app = create_app(state.served.worker, AppSettings("toy", api_key=api_key), others)
    add_explorer(app, state)
    with serving(app) as port:
        yield ServedApp(port, state.served.loaded.engine)
