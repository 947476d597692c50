"""What the user's own words for vLLM already settle: they win, and ours are left out.

They are read as vLLM reads them, abbreviations, short forms and a --config file included.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salient.core.errors import RequestError
from salient.diagnose.serving.read_settings import read_settings
from salient.diagnose.serving.settings import ServingSettings
from salient.diagnose.serving.shell_reader import put_arguments
from salient.diagnose.serving.shell_tokens import ShellToken
from salient.serve.options import ServeOptions


@dataclass(frozen=True)
class UserArguments:
    """Arguments that vLLM is given by the user, by vLLM's names of them with underscores."""

    values: dict[str, Any]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def text(self, name: str, default: str) -> str:
        held = self.values.get(name)
        return held if isinstance(held, str) else default

    def number(self, name: str, default: int) -> int:
        """A whole number above 0, `default` where none is given."""
        held = self.values.get(name)
        return held if type(held) is int and held > 0 else default

    def share(self, name: str, default: float) -> float:
        """A number above 0 and up to 1, `default` where none is given."""
        held = self.values.get(name)
        whole = isinstance(held, int | float) and not isinstance(held, bool) and 0 < held <= 1
        return float(held) if whole else default  # type: ignore[arg-type]


def read_given(request: ServeOptions) -> UserArguments:
    """The arguments in `request.vllm_args` and in the file that a --config among them names.

    Raises RequestError for a second model, and for a file that cannot be read.
    """
    values = settings_of(request.vllm_args, {}).values
    config = values.get("config")
    held = read_settings(Path(config).expanduser()).values if isinstance(config, str) else {}
    second = values.get("model", held.get("model"))
    if second is not None:
        raise RequestError(
            f"vLLM serves one model, and {str(second)!r} is a second one beside "
            f"{request.checkpoint}. Leave it out; behind -- stand vLLM's options alone."
        )
    return UserArguments({**held, **values})


def settings_of(words: Sequence[str], environment: dict[str, str]) -> ServingSettings:
    """vLLM's arguments, word by word as a program gets them, as the doctor judges them."""
    settings = ServingSettings(Path("command line"), "command")
    put_arguments(settings, [ShellToken(shlex.quote(word), 1) for word in words], {})
    for name, value in environment.items():
        settings.put_variable(name, value, 1)
    return settings
