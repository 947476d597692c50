"""Options of the verb `push`. Imports no torch."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from salient.core.options import OptionSpec, StrPath


@dataclass(frozen=True)
class PushOptions:
    """The checkpoint, and the repository to upload it to."""

    folder: Annotated[StrPath, OptionSpec("The folder of a finished checkpoint.", positional=True)]
    repo: Annotated[
        str, OptionSpec("The repository of the Hub, org/name; created if absent.", positional=True)
    ]
    _: KW_ONLY
    private: Annotated[bool, OptionSpec("Create the repository as a private one.")] = False
    revision: Annotated[
        str | None, OptionSpec("Branch to commit to; created if absent. Default: main.")
    ] = None
    commit_message: Annotated[
        str | None, OptionSpec("Message of the commit. Default: Upload NAME with Salient.")
    ] = None
    dry_run: Annotated[
        bool, OptionSpec("List files, card and what is missing; contact no server.")
    ] = False
