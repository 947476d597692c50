"""Parts of a long measurement, kept as they are done, so that a run goes on where it stopped.

A part is a JSON document under the digest of everything that it depends on: which model, which
examples, which settings. What changes has another name, so nothing stale is ever found.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salient import __version__
from salient.core.system import cache_folder
from salient.formats.writer import write_json

KEPT_SECONDS = 90 * 86400  # a part that nobody asked for in so long is forgotten


@dataclass
class ValidationCache:
    """Parts in `folder`.

    resume: take the checkpoint's own parts that are there; the reference's are always taken
    taken: how many parts were found and not measured again
    """

    folder: Path = field(default_factory=lambda: cache_folder() / "validate")
    resume: bool = False
    taken: int = 0

    def part(
        self,
        name: str,
        settings: dict[str, Any],
        make: Callable[[], Any],
        *,
        shared: bool = False,
    ) -> Any:
        """What `make` gives, as JSON reads it back; measured only if it is not there.

        settings: all that it depends on, a seal (Side.seal) among them
        shared: it depends on the reference alone, and serves other checkpoints of it
        """
        path = self.folder / f"{name}-{_digest(settings)}.json"
        if self.resume or shared:
            found = _read(path)
            if found is not None:
                self.taken += 1
                return found["value"]
        value = json.loads(json.dumps(make()))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"settings": settings, "value": value})
        return value

    def forget_old(self) -> None:
        """Remove the parts that were written long ago."""
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                    path.unlink()


def _digest(settings: dict[str, Any]) -> str:
    written = json.dumps({**settings, "salient": __version__}, sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:24]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "value" in found else None
