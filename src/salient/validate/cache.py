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
from typing import Any, TypeVar

from salient import __version__
from salient.core.records import FormatFault, from_json, to_json
from salient.core.system import cache_folder
from salient.formats.writer import write_json

T = TypeVar("T")

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
        measure: Callable[[], T],
        kind: type[T],
        *,
        shared: bool = False,
    ) -> T:
        """The part that `measure` returns, of the type `kind`; measured only if it is absent.

        settings: all that it depends on, a fingerprint among them
        kind: as core.records.from_json takes it; what is no such part is measured again
        shared: it depends on the reference alone, and serves other checkpoints of it
        """
        path = self.folder / f"{name}-{_digest(settings)}.json"
        if self.resume or shared:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, FormatFault):
                part = from_json(kind, json.loads(path.read_text(encoding="utf-8"))["value"])
                self.taken += 1
                return part
        part = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"settings": settings, "value": to_json(part)})
        return part

    def forget_old(self) -> None:
        """Remove the parts that were written long ago."""
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > KEPT_SECONDS:
                    path.unlink()


def _digest(settings: dict[str, Any]) -> str:
    written = json.dumps({**settings, "salient": __version__}, sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:24]
