"""Serving settings read from a file: vLLM's YAML, a command line, Python source, or JSON.

Nothing is run and nothing fetched; a file is read once and within bounds. The meaning of the
settings is left to the rules.
"""

from collections.abc import Callable
from pathlib import Path

from salient.core.errors import RequestError
from salient.core.input_files import UnfitFile, read_input

from .model_registry import read_registry
from .python_reader import has_engine_call, parse_python, read_python
from .settings import Form, ServingSettings
from .shell_reader import read_command
from .yaml_reader import read_json, read_yaml

FILE_LIMIT = 2**22  # bytes
_READERS: dict[Form, Callable[[ServingSettings, str], bool]] = {
    "yaml": read_yaml,
    "command": read_command,
    "python": read_python,
    "json": read_json,
}
_BY_SUFFIX: dict[str, Form] = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".py": "python"}
_FITS = (
    "What fits: a YAML file for `vllm serve --config`, a script or text with `vllm serve MODEL`, "
    "Python with LLM(...) or EngineArgs(...), a JSON object of engine arguments."
)


def read_settings(path: Path) -> ServingSettings:
    """The engine's arguments and variables in the file `path`.

    The suffix determines the form; other files are tried as a command line, then as JSON or YAML.
    Raises RequestError for a file that cannot be read, is too large, or holds no settings.
    """
    path = Path(path)
    text = _text(path)
    by_suffix = _BY_SUFFIX.get(path.suffix.lower())
    for form in (by_suffix,) if by_suffix else _forms(text):
        settings = ServingSettings(path, form)
        try:
            if _READERS[form](settings, text):
                settings.read_release(text)
                return settings
        except RequestError:
            if form != "yaml" or by_suffix:
                raise
    raise RequestError(f"{path} holds no settings of vLLM or SGLang. {_FITS}")


def read_all_settings(path: Path) -> list[ServingSettings]:
    """The settings of each deployment in a file: of a registry in Python, else as `read_settings`.

    Raises RequestError as `read_settings` does.
    """
    path = Path(path)
    if path.suffix.lower() == ".py":
        settings = ServingSettings(path, "python")
        text = _text(path)
        entries = read_registry(settings, *parse_python(settings, text))
        if len(entries) > 1 or (entries and not has_engine_call(text)):
            for entry in entries:
                entry.read_release(text)
            return entries
    return [read_settings(path)]


def _forms(text: str) -> tuple[Form, ...]:
    """The forms to try for a text with another suffix."""
    if text.lstrip().startswith("{"):
        return ("json",)
    first = next((line for line in text.splitlines() if line.strip()), "")
    return ("command", "yaml") if ":" in first and not first.startswith("#!") else ("command",)


def _text(path: Path) -> str:
    """The file's text. Raises RequestError where it is no text."""
    try:
        if not path.exists():
            raise RequestError(f"{path} is not there. {_FITS}")
        text = read_input(path, FILE_LIMIT).decode("utf-8-sig")
    except UnfitFile as error:
        raise RequestError(f"{path} {error.reason}. {_FITS}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is no UTF-8 text (byte {error.start}). {_FITS}") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise RequestError(f"{path} cannot be read: {error}. {_FITS}") from error
    if "\0" in text:
        raise RequestError(f"{path} is no text: it holds null bytes. {_FITS}")
    return text
