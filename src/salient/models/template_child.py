"""The program of the processes that render chat templates: one line of JSON in, one out.

A chat template is a program from a stranger. `template_process.py` starts this file with limits on
time, memory and output. It imports neither Salient nor Transformers; its Jinja environment
is that of Transformers (utils/chat_template_utils.py), which vLLM uses too.
"""

import contextlib
import json
import os
import resource
import sys
import time
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, nodes, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

BASE_MEMORY = 768 * 2**20  # bytes of address space of the interpreter and a usual conversation
MEMORY_FACTOR = 24  # and this much for each byte of the request
LONGEST_REASON = 300
REASONING = ("reasoning_content", "thinking", "reasoning")


class TemplateDemand(TemplateError):
    """Raised by the template's own `raise_exception`."""


class OutputLimit(Exception):
    """The output exceeds its limit."""


class GenerationTag(Extension):
    """`{% generation %}`, which marks answers for training: renders its body."""

    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    @pass_eval_context
    def _body(self, context: nodes.EvalContext, caller: Any) -> str:
        return caller()


class TemplateDict:
    """The `dict` of templates."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class TemplateNamespace(Namespace):
    """The `namespace` of templates, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any):  # `self` may be a name in it
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"A namespace cannot store the name {name!r}.")


def _raise_exception(message: Any) -> None:
    raise TemplateDemand(str(message))


def _tojson(
    x: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  as templates call it
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(maxsize=8)
def compiled(template: str) -> Any:
    """The template in Transformers' environment. Raises TemplateSyntaxError."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "dict": TemplateDict(),
        "namespace": TemplateNamespace,
    }
    return environment.from_string(template)


def plain_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as Transformers passes them: no nulls, reasoning under each of its usual names."""
    plain = []
    for message in messages:
        message = {key: value for key, value in message.items() if value is not None}
        reasoning = next((message[key] for key in REASONING if key in message), None)
        if reasoning is not None:
            message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
        plain.append(message)
    return plain


def render(request: dict[str, Any]) -> str:
    """The text of `request`. Raises what the template raises, and OutputLimit."""
    today = request["now"]
    now = datetime.fromisoformat(today) if today else datetime.now()
    variables = request["variables"]
    variables["messages"] = plain_messages(variables["messages"])
    pieces, length = [], 0
    for piece in compiled(request["template"]).generate(strftime_now=now.strftime, **variables):
        length += len(piece)
        if length > request["most"]:
            raise OutputLimit
        pieces.append(piece)
    return "".join(pieces)


def answer(request: dict[str, Any]) -> dict[str, str]:
    """{"text"}, or {"kind", "reason"} of the fault."""
    try:
        return {"text": render(request)}
    except TemplateDemand as error:
        return {"kind": "demand", "reason": _plain(str(error))}
    except MemoryError:
        return {"kind": "memory", "reason": ""}
    except OutputLimit:
        return {"kind": "output", "reason": ""}
    except Exception as error:  # noqa: BLE001  a stranger's program raises anything
        return {"kind": "fault", "reason": f"{type(error).__name__}: {_reason(error)}"}


def _reason(error: Exception) -> str:
    """The error's message with the line of the template, on one line of printable text."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return _plain(str(error)) + (f" (line {line} of the template)" if line else "")


def _plain(message: str) -> str:
    """The start of `message` on one line of printable text."""
    line = " ".join(message.split())[:LONGEST_REASON]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def _limit(kind: int, value: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # not on every system
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


def main() -> None:
    """Answer requests until standard input ends. Exits after a fault of memory."""
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    out = os.fdopen(os.dup(1), "wb")
    out.write(b"\n")
    out.flush()
    for line in sys.stdin.buffer:
        _limit(resource.RLIMIT_AS, BASE_MEMORY + MEMORY_FACTOR * len(line))
        try:
            request = json.loads(line)
            # an orphan ends, too
            _limit(resource.RLIMIT_CPU, int(time.process_time() + request["seconds"]) + 2)
            reply = answer(request)
            data = json.dumps(reply, ensure_ascii=False).encode("utf-8", "surrogatepass")
        except (MemoryError, RecursionError):
            reply, data = {"kind": "memory"}, b'{"kind": "memory", "reason": ""}'
        out.write(data + b"\n")
        out.flush()
        if reply.get("kind") == "memory":
            return


if __name__ == "__main__":
    main()
