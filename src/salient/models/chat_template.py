"""A conversation as the model's chat template writes it, with a check that nothing is lost.

Templates differ in what they read: content as a string or as a list of parts, arguments of a tool
call as an object or as JSON. A conversation is offered in each form until one renders with all of
its text. Text that no form renders is named: a calibration or an answer would rest on another
conversation.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from salient.core.corpus import Document, Message

from .template_process import TemplateFault, render_template

CALIBRATION_DATE = "2024-07-26"  # of templates that write today's: equal runs have equal tokens
TERM = re.compile(r"\w{2,}")
MOST_TERMS, MOST_LETTERS = 16, 4096  # of one field; letters of each of its sampled stretches
PARTS = re.compile(r"""['"]type['"]: ?['"]text['"]""")  # a list of parts, printed as it is
ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
REASONING = ("reasoning_content", "thinking", "reasoning")


class LostText(Exception):
    """A field of a conversation that the template does not write. term: a word of it"""

    def __init__(self, field: str, term: str):
        super().__init__(f"{field}: {term!r}")
        self.field, self.term = field, term


def select_template(templates: Any, document: Document) -> str | None:
    """The template for `document` of a tokenizer's `chat_template`; None if it has none.

    Of several named ones "tool_use" is for rows with tools, "rag" for rows with documents, else
    "default", as Transformers selects. Raises TemplateFault if none fits.
    """
    if not isinstance(templates, dict):
        return templates or None
    wanted = [("tool_use", document.tools), ("rag", document.documents), ("default", True)]
    for name, used in wanted:
        if used and name in templates:
            return templates[name]
    if len(templates) == 1:
        return next(iter(templates.values()))
    names = ", ".join(sorted(map(repr, templates)))
    raise TemplateFault(
        "fault", f"the model has the templates {names} and none of them is named 'default'"
    )


def render_conversation(
    tokenizer: Any, document: Document, *, strict: bool, now: str | None = None, **options: bool
) -> str:
    """The text of `document.messages` by the tokenizer's template.

    strict: raise LostText for text that is not written; else take the first form that writes what
        is not an answer's, or the first that renders
    options: variables of the template, such as add_generation_prompt

    Raises TemplateFault.
    """
    template = select_template(tokenizer.chat_template, document)
    assert template is not None
    read = {name: value for name, value in document.variables.items() if name in template}
    fixed: dict[str, Any] = {
        **read,
        **tokenizer.special_tokens_map,
        **options,
        "tools": list(document.tools) or None,
        "documents": list(document.documents) or None,
        "add_generation_prompt": options.get("add_generation_prompt", False),
    }

    def text_of(messages: list[dict[str, Any]]) -> str:
        return render_template(template, {**fixed, "messages": messages}, now)

    fault, lost, best = None, None, None
    checked = document if strict else replace(document, messages=_questions(document.messages))
    for messages in _forms(document.messages):
        try:
            text = text_of(messages)
        except TemplateFault as error:
            if fault is None or (fault.kind, error.kind) == ("fault", "demand"):
                fault = error  # what the template demands tells more than what it stumbles over
            if error.kind in ("time", "memory", "output"):
                break
            continue
        missing = _missing(checked, text)
        if missing is not None and strict:
            missing = _missing_alone(document, messages, text, text_of)
        missing = missing or _printed_parts(document, text)
        if missing is None:
            return text
        lost, best = lost or missing, text if best is None else best
    if best is None:
        assert fault is not None
        raise fault
    if strict:
        assert lost is not None
        raise lost
    return best


def _questions(messages: Iterable[Message]) -> tuple[Message, ...]:
    return tuple(message for message in messages if message.get("role") != "assistant")


def _forms(messages: Iterable[Message]) -> Iterator[list[dict[str, Any]]]:
    """The messages in each form that templates read; the most usual first."""
    plain, forms = [dict(message) for message in messages], []
    for arguments in (_arguments_parsed, dict):
        for content in (dict, _content_as_text, _content_as_parts):
            form = [content(arguments(message)) for message in plain]
            if form not in forms:
                forms.append(form)
                yield form


def _arguments_parsed(message: Message) -> dict[str, Any]:
    """Tool calls with arguments as objects, as templates read them; OpenAI's API has JSON."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    return {**message, "tool_calls": [_call_parsed(call) for call in calls]}


def _call_parsed(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _content_as_text(message: Message) -> dict[str, Any]:
    return {**message, "content": content_text(message.get("content"))}


def _content_as_parts(message: Message) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        return dict(message)
    return {**message, "content": [{"type": "text", "text": content_text(content)}]}


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list joined."""
    if isinstance(content, list):
        return "".join(str(p.get("text") or "") if isinstance(p, dict) else str(p) for p in content)
    return "" if content is None else str(content)


def _printed_parts(document: Document, text: str) -> LostText | None:
    """A list of parts that the template printed instead of reading it."""
    lists = [m for m in document.messages if isinstance(m.get("content"), list)]
    if not lists or not PARTS.search(text):
        return None
    own = sum(len(PARTS.findall(content_text(m.get("content")))) for m in document.messages)
    return LostText("content", "a list of parts") if len(PARTS.findall(text)) > own else None


def _missing_alone(
    document: Document, messages: list[dict[str, Any]], text: str, text_of: Any
) -> LostText | None:
    """Text that is missing in `text`, and in the rendering that ends with its message.

    Templates drop the reasoning of earlier turns, as the model was trained; what they write of it
    in the last turn is what counts.
    """
    for number, fields in message_fields(document):
        for name, value in fields:
            term = _missing_term(value, text)
            if term is None:
                continue
            try:
                alone = text_of(messages[: number + 1])
            except TemplateFault:
                alone = ""
            if _missing_term(value, alone) is not None:
                return LostText(f"messages[{number}].{name}", term)
    return _missing_row(document, text)


def _missing(document: Document, text: str) -> LostText | None:
    for number, fields in message_fields(document):
        for name, value in fields:
            if (term := _missing_term(value, text)) is not None:
                return LostText(f"messages[{number}].{name}", term)
    return _missing_row(document, text)


def _missing_row(document: Document, text: str) -> LostText | None:
    """The row's tools and documents."""
    for name, values in (("tools", document.tools), ("documents", document.documents)):
        for number, value in enumerate(values):
            described = value.get("function", value) if isinstance(value, dict) else value
            if isinstance(described, dict) and name == "tools":
                described = [described.get("name"), described.get("description")]
            if (term := _missing_term(" ".join(_strings(described)), text)) is not None:
                return LostText(f"{name}[{number}]", term)
    return None


def message_fields(document: Document) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """For each message the fields that a model reads, as (name, text)."""
    for number, message in enumerate(document.messages):
        fields = [("content", content_text(message.get("content")))]
        reasoning = next((name for name in REASONING if message.get(name)), None)
        if reasoning:
            fields.append((reasoning, str(message[reasoning])))
        for call in message.get("tool_calls") or ():
            function = _call_parsed(call).get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                parts = [function.get("name"), function.get("arguments")]
                fields.append(("tool_calls", " ".join(_strings(parts))))
        yield number, fields


def _strings(value: Any) -> Iterator[str]:
    """The keys and strings in `value`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _missing_term(value: str, text: str) -> str | None:
    """A sampled word of `value` that is not in `text`."""
    absent = [term for term in sample_terms(value) if term not in text]
    if not absent:
        return None
    folded = ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    folded = folded.encode("utf-16", "surrogatepass").decode("utf-16", "replace").casefold()
    return next((term for term in absent if term.casefold() not in folded), None)


def sample_terms(value: str) -> list[str]:
    """Words of `value`, evenly spread, the first and last among them; symbols if it has none."""
    if len(value) > MOST_TERMS * MOST_LETTERS:
        step = (len(value) - MOST_LETTERS) // (MOST_TERMS - 1)
        stretches = [value[i * step : i * step + MOST_LETTERS] for i in range(MOST_TERMS)]
        terms = [term for each in stretches for term in TERM.findall(each)[1:-1]]
    else:
        terms = TERM.findall(value)
    if not terms:  # single letters and symbols, but for those that JSON escapes
        terms = [term[:64] for term in value[:MOST_LETTERS].split() if not {'"', "\\"} & set(term)]
    count = min(MOST_TERMS, len(terms))
    return [terms[i * (len(terms) - 1) // max(1, count - 1)] for i in range(count)]


def without_media(document: Document) -> tuple[Document, int]:
    """`document` without parts that are not text, and how many they are."""
    count, messages = 0, []
    for message in document.messages:
        content = message.get("content")
        if isinstance(content, list):
            text = [p for p in content if not isinstance(p, dict) or "text" in p]
            count += len(content) - len(text)
            message = {**message, "content": text}
        messages.append(message)
    return (replace(document, messages=tuple(messages)), count) if count else (document, 0)
