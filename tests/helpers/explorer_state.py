"""A toy quantized by a whole run, its explorer, and the same beside a reference, served."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.engines import opened
from helpers.served_app import CHAT, Served, serving, until
from salient.explorer.routes import add_explorer
from salient.explorer.state import ExplorerState, ReferenceModel
from salient.serve.app import AppSettings, create_app
from salient.serve.worker import Worker


def scene_of(folder: Path, reference: Path | None = None, **options: Any) -> ExplorerState:
    """What there is to look at; nothing runs."""
    made = opened(folder, **options)
    made.engine.tokenizer.chat_template = CHAT
    beside = None
    if reference is not None:
        other = opened(reference, **options)
        other.engine.tokenizer.chat_template = CHAT
        beside = ReferenceModel("full", reference, other, Worker(other.engine, 4))
    return ExplorerState(folder, made, "toy", Worker(made.engine, 4), beside)


def measured(scene: ExplorerState) -> ExplorerState:
    """The scene once its pass has ended. What it computes afterwards, it computes here."""
    assert scene.overview()
    until(lambda: scene.progress["state"] in ("none", "ready", "failed"))
    return scene


@contextlib.contextmanager
def explored(scene: ExplorerState, api_key: str | None = None) -> Iterator[Served]:
    """The scene's page and server."""
    beside = [scene.reference.worker] if scene.reference else []
    app = create_app(scene.worker, AppSettings("toy", api_key=api_key), beside)
    add_explorer(app, scene)
    with serving(app) as port:
        yield Served(port, scene.opened.engine)
