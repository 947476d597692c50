"""The source of a run: the digests of its files, and whether it changes while it is read.

Each block's tensors are hashed in the background while the block is quantized. A write to a file
changes its state (core/content_digest.py), so a block is right if no file's state has changed at
its end, or the content is still the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from salient.core.carried_files import find_carried
from salient.core.content_digest import FileState, file_digest, file_digests, tensor_digests
from salient.core.errors import ModelError, ResumeMismatch
from salient.core.model_files import ADAPTER_CONFIG, INDEX, StoredTensor
from salient.core.source_card import CARD
from salient.formats.checkpoint import Checkpoint
from salient.models.lora import WEIGHTS, Adapter

from .journal import UnfinishedRun, other_source

ADAPTER = "adapter/"
LISTED = 3  # of many tensors, how many a message names


def source_paths(source: Checkpoint, adapter: Adapter | None) -> dict[str, Path]:
    """The files that a checkpoint is made from, by their names in the run's header."""
    folder = source.folder
    own = {"config.json", INDEX, CARD, *find_carried(folder).files}
    own |= {path.relative_to(folder).as_posix() for path in source.files.values()}
    paths = {name: folder / name for name in own}
    if adapter is not None:
        names = {ADAPTER_CONFIG, WEIGHTS, *find_carried(adapter.folder).files}
        paths |= {f"{ADAPTER}{name}": adapter.folder / name for name in names}
    return {name: paths[name] for name in sorted(paths) if paths[name].is_file()}


class SourceWatch:
    """The files of a source, watched from now on.

    digests: their names -> SHA-256
    """

    def __init__(self, source: Checkpoint, adapter: Adapter | None):
        self._source, self._paths = source, source_paths(source, adapter)
        self._states: dict[str, FileState] = {}  # of the files whose content is known
        for name, path in self._paths.items():
            self._know(name, FileState.of(path))
        digests = file_digests(self._paths.values())
        self.digests = {name: digests[path] for name, path in self._paths.items()}
        self._pool = ThreadPoolExecutor(1, "source")
        self._hashing: Future[dict[str, str]] | None = None
        self._tensors: list[StoredTensor] = []
        self._recorded: dict[str, str] = {}  # the digests of all tensors since the run began

    def check_same(self, folder: Path, unfinished: UnfinishedRun) -> None:
        """Raise ResumeMismatch if the `unfinished` run in `folder` is of another source."""
        if reason := other_source(unfinished.run.source_files, self.digests):
            tensors = _label(self._changed_tensors(unfinished.source_tensors))
            raise ResumeMismatch(
                f"The unfinished run in {folder} has {reason}{tensors}. Restore the source to "
                "resume, use --fresh to start over, or another -o."
            )

    def begin(self, tensors: Iterable[StoredTensor]) -> None:
        """Hash `tensors`, which the run is about to read, in the background."""
        self._tensors = list(tensors)
        self._hashing = self._pool.submit(tensor_digests, self._tensors)

    def end(self, recorded: Mapping[str, str] | None = None) -> dict[str, str]:
        """The digests of the tensors since `begin`, after they were read.

        Raises ModelError if the source has changed, or they are not as an earlier run `recorded`.
        """
        assert self._hashing
        digests = self._hashing.result()
        self._recorded |= digests
        if self.check():
            self._refuse_changed(digests, tensor_digests(self._tensors))
        self._refuse_changed(recorded or {}, digests)
        return digests

    def check(self) -> bool:
        """Whether a file may have been written to. Raises ModelError if one has other content."""
        written = False
        for name, path in self._paths.items():
            try:
                state = FileState.of(path)
                if state == self._states.get(name):
                    continue
                same = file_digest(path) == self.digests[name]
            except (OSError, ModelError):
                same = False
            if not same:
                self._refuse(name, self._changed_tensors(self._recorded))
            self._know(name, state)
            written = True
        return written

    def _know(self, name: str, state: FileState) -> None:
        """Remember the state of a file, unless its next change may have the same time."""
        if state.settled:
            self._states[name] = state

    def _changed_tensors(self, recorded: Mapping[str, str]) -> list[str]:
        """The tensors whose digests are no longer as `recorded`; none if they cannot be read."""
        headers = self._source.headers
        try:
            current = tensor_digests(headers[name] for name in recorded if name in headers)
        except ModelError:
            return []
        return [name for name in recorded if current.get(name) != recorded[name]]

    def _refuse_changed(self, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        tensors = [name for name in before if name in now and before[name] != now[name]]
        if tensors:
            path = self._source.headers[tensors[0]].path
            self._refuse(path.name, tensors)

    def _refuse(self, name: str, tensors: list[str]) -> None:
        raise ModelError(
            f"{self._paths.get(name, name)} changed while it was quantized"
            f"{_label(tensors)}. Nothing is published; the blocks that were finished before "
            "stay. Restore the file and run the same command to resume, or use --fresh."
        )


def _label(tensors: Sequence[str]) -> str:
    """The `tensors` that differ, as the end of a sentence; '' for none."""
    more = f" and {len(tensors) - LISTED} more" if len(tensors) > LISTED else ""
    return f", in {', '.join(map(repr, tensors[:LISTED]))}{more}" if tensors else ""
