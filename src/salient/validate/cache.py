"""Cached parts of a long measurement, so that a run resumes where it stopped.

A part is a JSON document under the digest of everything that it depends on: model, examples and
settings. What changes has another name, so nothing stale is ever read.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from salient.core.records import FormatFault, from_json, to_json
from salient.core.system import cache_folder
from salient.core.version import __version__
from salient.formats.writer import write_json

T = TypeVar("T")

MAX_AGE = 90 * 86400  # seconds; older parts are removed


@dataclass
class ValidationCache:
    """Parts in `folder`.

    resume: reuse the checkpoint's parts; the reference's are always reused
    reused: how many parts were not measured again
    """

    folder: Path = field(default_factory=lambda: cache_folder() / "validate")
    resume: bool = False
    reused: int = 0

    def part(
        self,
        name: str,
        settings: Mapping[str, object],
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
        document = json.dumps({**settings, "salient": __version__}, sort_keys=True)
        digest = hashlib.sha256(document.encode()).hexdigest()[:24]
        path = self.folder / f"{name}-{digest}.json"
        if self.resume or shared:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, FormatFault):
                part = from_json(kind, json.loads(path.read_text(encoding="utf-8"))["value"])
                self.reused += 1
                return part
        part = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"settings": settings, "value": to_json(part)})
        return part

    def remove_old(self) -> None:
        """Remove parts that are older than MAX_AGE."""
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > MAX_AGE:
                    path.unlink()


def digest_tokens(ids: Tensor) -> str:
    """The digest of token ids and their shape, for the settings of a part."""
    return hashlib.sha256(f"{list(ids.shape)}".encode() + ids.numpy().tobytes()).hexdigest()
