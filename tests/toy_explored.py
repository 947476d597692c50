"""A toy quantized by a whole run, its explorer, and the same beside a reference, served."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from salient.serve.app import Settings, create_app
from salient.serve.explorer.routes import add_explorer
from salient.serve.explorer.scene import Reference, Scene
from salient.serve.worker import Worker
from toy_engines import opened
from toy_served import CHAT, Served, serving, until


def scene_of(folder: Path, reference: Path | None = None, **options: Any) -> Scene:
    """What there is to look at; nothing runs."""
    made = opened(folder, **options)
    made.engine.tokenizer.chat_template = CHAT
    beside = None
    if reference is not None:
        other = opened(reference, **options)
        other.engine.tokenizer.chat_template = CHAT
        beside = Reference("full", reference, other, Worker(other.engine, 4))
    return Scene(folder, made, "toy", Worker(made.engine, 4), beside)


def measured(scene: Scene) -> Scene:
    """The scene once its pass has ended. What it computes afterwards, it computes here."""
    assert scene.overview()
    until(lambda: scene.progress["state"] in ("none", "ready", "failed"))
    return scene


@contextlib.contextmanager
def explored(scene: Scene, api_key: str | None = None) -> Iterator[Served]:
    """The scene's page and server."""
    beside = [scene.reference.worker] if scene.reference else []
    app = create_app(scene.worker, Settings("toy", api_key=api_key), beside)
    add_explorer(app, scene)
    with serving(app) as port:
        yield Served(port, scene.opened.engine)
