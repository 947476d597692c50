"""The commands: what a verb shows while it runs, and at its end."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from salient import api
from salient.core.options import option_fields

from .console import cli_session, show
from .options import python_value
from .terminal import OutputError, Terminal, discard_output

if TYPE_CHECKING:
    from salient.api.verb_results import GenerateResult
    from salient.diagnose.finding import Finding
    from salient.serve.options import ServerEvent

Values = dict[str, Any]
RESUME = "The same command resumes where this run stopped."


@dataclass(frozen=True)
class Command:
    """A verb as a command.

    exit_1: what exit code 1 means
    resume: how to continue after an interruption
    callbacks: from the verb's keywords and --json to its callbacks
    finish: shows the result, by the verb's keywords and --json, and returns the exit code
    """

    name: str
    exit_1: str = ""
    resume: str = ""
    has_json: bool = True
    callbacks: Callable[[Values, bool], Mapping[str, Any]] = lambda values, as_json: {}
    finish: Callable[[Any, Values, bool], int] | None = None

    @property
    def verb(self) -> Callable[..., Any]:
        return getattr(api, self.name.replace("-", "_"))

    @property
    def options(self) -> type:
        return api.OPTIONS[self.name.replace("-", "_")]

    def run(self, typed: Values) -> int:
        """Call the verb with what was typed, and show its result. Returns the exit code."""
        as_json = typed.pop("json", False) or False
        fields = {field.name: field for field in option_fields(self.options)}
        with cli_session(json=as_json, resumes=self.resume) as progress:
            values = {name: python_value(fields[name], value) for name, value in typed.items()}
            values |= self.callbacks(values, as_json)
            if hasattr(self.options, "progress"):
                values["progress"] = progress
            result = self.verb(**values)
        return (self.finish or _finish)(result, values, as_json)


def _finish(result: Any, values: Values, as_json: bool) -> int:
    """Show the report. A reader that closes the pipe early, as `head` does, changes no verdict."""
    try:
        show(result.report, json=as_json)
        sys.stdout.flush()
    except OutputError as error:
        if not isinstance(error.__cause__, BrokenPipeError):
            raise
        discard_output()
    return result.exit_code


def _doctor_callbacks(values: Values, as_json: bool) -> Mapping[str, Any]:
    return {"on_finding": _print_finding_json if as_json else _print_finding}


def _print_finding(finding: "Finding") -> None:
    from salient.diagnose.report import finding_lines

    print("\n".join(finding_lines(finding)), flush=True)


def _print_finding_json(finding: "Finding") -> None:
    print(json.dumps(finding.to_dict()), flush=True)


def _finish_doctor(result: Any, values: Values, as_json: bool) -> int:
    if as_json and values.get("follow"):
        return result.exit_code  # each finding was a document of its own
    return _finish(result, values, as_json)


def _serve_callbacks(values: Values, as_json: bool) -> Mapping[str, Any]:
    return {"on_event": _print_event_json if as_json else _print_event}


def _print_event(event: "ServerEvent") -> None:
    print("\n".join(event.lines), flush=True)  # a bar that is drawn meanwhile stays below it


def _print_event_json(event: "ServerEvent") -> None:
    print(json.dumps(event.data or {"said": "\n".join(event.lines)}), flush=True)


def _finish_serve(code: int, values: Values, as_json: bool) -> int:
    from salient.serve.http_server import end_process

    end_process(code)
    return code


def _is_single(values: Values, as_json: bool) -> bool:
    return len(values["prompt"]) == 1 and not as_json


def _generate_callbacks(values: Values, as_json: bool) -> Mapping[str, Any]:
    """The prompts with standard input in place of '-'; the text of a single one as it comes."""
    prompts = [sys.stdin.read() if text == "-" else text for text in values["prompt"]]
    single = _is_single(values, as_json)
    return {"prompt": prompts} | ({"on_text": _print_text} if single else {})


def _print_text(_: int, text: str) -> None:
    print(text, end="", flush=True)


def _finish_generate(result: "GenerateResult", values: Values, as_json: bool) -> int:
    if as_json:
        return _finish(result, values, as_json)
    if _is_single(values, as_json):
        print()
    else:
        for number, (prompt, text) in enumerate(zip(values["prompt"], result.texts, strict=True)):
            print(f"--- {number + 1}: {prompt}\n{text}")
    errors = Terminal(stderr=True)
    if errors.is_terminal:
        result.report.show(errors)
    return 0


def _finish_chat(conversation: Any, values: Values, as_json: bool) -> int:
    from .chat_session import talk

    talk(conversation)
    return 0


COMMANDS = (
    Command("plan", exit_1="no format meets the requirements; 2: it could not be decided"),
    Command(
        "doctor",
        exit_1="something is wrong or slow",
        callbacks=_doctor_callbacks,
        finish=_finish_doctor,
    ),
    Command("quantize", resume=RESUME),
    Command("inspect"),
    Command("validate", exit_1="a rule fails; 2: it could not be measured", resume=RESUME),
    Command("evaluate", resume=RESUME),
    Command(
        "receipt",
        exit_1="the calibration text holds text of the panel, or a figure is not the receipt's",
        resume=RESUME,
    ),
    Command("panel"),
    Command("compare", resume=RESUME),
    Command("load-test", exit_1="a request failed"),
    Command("serve", callbacks=_serve_callbacks, finish=_finish_serve),
    Command("generate", callbacks=_generate_callbacks, finish=_finish_generate),
    Command("chat", has_json=False, finish=_finish_chat),
    Command("bench"),
    Command("convert"),
    Command("export"),
    Command("push", resume="The same command uploads what is missing."),
)
