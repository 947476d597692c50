"""Rows of data sets -> documents: texts, and conversations with every key that they have.

Converted: ShareGPT (`conversations` of `from` and `value`), Alpaca (`instruction`, `input`,
`output`), `prompt` and `completion`, and OpenAI's older `functions`. Other rows are refused with
the conversion to make.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import CalibrationError
from .input_files import parse_json
from .printable import half_pair
from .records import is_list, is_object, is_sequence

Message = Mapping[str, Any]

CONVERSATIONS = ("messages", "conversations", "conversation")
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
}
SHAREGPT_ROLES = {*ROLES, *ROLES.values(), "system", "developer", "function_call"}
# Without content a message is whole if it has one of these.
INSTEAD_OF_CONTENT = ("tool_calls", "reasoning_content", "thinking", "reasoning")
PAIRS = (
    ("question", "answer"),
    ("query", "response"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("problem", "solution"),
    ("instruction", "response"),
    ("prompt", "chosen"),
    ("input", "output"),
)
NEEDED = (
    "Each line needs a 'text' string or a 'messages' list of objects with 'role' and 'content'."
)


@dataclass(frozen=True)
class Document:
    """One text, or one conversation in the messages format of chat templates.

    messages, tools, documents: as the row has them, with all their keys
    variables: other keys of the row, which a template may read
    where: file and row, for messages
    """

    text: str = ""
    messages: tuple[Message, ...] = ()
    kind: str = "text"
    tools: tuple[Mapping[str, Any], ...] = ()
    documents: tuple[Mapping[str, Any], ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    where: str = field(default="", compare=False)


def to_document(row: object, where: str) -> Document:
    """The document of a row. Raises CalibrationError naming `where` and the field at fault."""
    if isinstance(row, str):
        row = {"text": row}
    elif is_list(row) and row and all(map(is_object, row)):
        row = {"messages": row}
    if not is_object(row):
        kind = "null" if row is None else type(row).__name__
        raise CalibrationError(f"{where}: found {kind}. {NEEDED}")
    _check_characters(row, where)
    fields = {str(key): _plain(value) for key, value in row.items() if value is not None}
    kind = str(fields.pop("kind", "text"))
    turns = _turns(fields, where)
    if turns is None:
        text = _text(row, fields, where)
        return Document(text, kind=kind, where=where)
    messages = [_message(turn, f"{where}: {name}") for name, turn in turns]
    system = fields.pop("system", None)
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    if (functions := fields.pop("functions", None)) is not None:
        fields.setdefault("tools", functions)
    tools = [
        _tool(tool, f"{where}: tools[{n}]") for n, tool in enumerate(_list(fields, "tools", where))
    ]
    documents = _list(fields, "documents", where)
    options = fields.pop("chat_template_kwargs", None)
    return Document(
        messages=tuple(messages),
        kind=kind,
        tools=tuple(tools),
        documents=tuple(documents),
        variables={**fields, **(options if is_object(options) else {})},
        where=where,
    )


def _turns(fields: dict[str, Any], where: str) -> list[tuple[str, object]] | None:
    """The named turns of a conversation, taken out of `fields`; None if the row has none."""
    name = next((name for name in CONVERSATIONS if fields.get(name)), None)
    if name is not None:
        turns = _list(fields, name, where)
        return [(f"{name}[{number}]", turn) for number, turn in enumerate(turns)]
    if "text" in fields:
        return None
    if "instruction" in fields and "output" in fields:
        parts = [fields.pop("instruction"), fields.pop("input", "")]
        turns = [
            (("history", turn[0]), ("history", turn[1]))
            for turn in _list(fields, "history", where)
            if is_list(turn) and len(turn) == 2
        ]
        question = "\n\n".join(str(part) for part in parts if str(part).strip())
        turns.append((("instruction", question), ("output", fields.pop("output"))))
        roles = ("user", "assistant")
        return [
            (name, {"role": role, "content": content})
            for pair in turns
            for role, (name, content) in zip(roles, pair, strict=True)
        ]
    if is_list(fields.get("prompt")) and is_list(fields.get("completion")):
        turns = [*fields.pop("prompt"), *fields.pop("completion")]
        return [(f"prompt + completion [{number}]", turn) for number, turn in enumerate(turns)]
    return None


def _text(row: dict[str, Any], fields: dict[str, Any], where: str) -> str:
    """The text of a row that is no conversation. Raises CalibrationError naming what it has."""
    text = fields.get("text")
    if isinstance(text, str):
        return text
    prompt, completion = fields.get("prompt"), fields.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt + completion
    columns = ", ".join(map(repr, row)) or "dict"
    if "text" in row:
        kind = "null" if text is None else type(text).__name__
        raise CalibrationError(
            f"{where}: found {columns}; 'text' is {kind}. Give it a string, or remove the row."
        )
    empty = next((name for name in CONVERSATIONS if name in row), None)
    if empty is not None:
        kind = "null" if row[empty] is None else "empty"
        raise CalibrationError(f"{where}: found {columns}; {empty!r} is {kind}. {NEEDED}")
    pair = next((pair for pair in PAIRS if set(pair) <= row.keys()), None)
    strings = [name for name, value in row.items() if isinstance(value, str)]
    if pair is not None:
        advice = (
            f' Convert it: {{"messages": [{{"role": "user", "content": {pair[0]}}}, '
            f'{{"role": "assistant", "content": {pair[1]}}}]}}.'
        )
    else:
        advice = f" Rename {strings[0]!r} to 'text'." if len(strings) == 1 else ""
    raise CalibrationError(f"{where}: found {columns}. {NEEDED}{advice}")


def _message(turn: object, where: str) -> dict[str, Any]:
    """A turn with `role` and `content`, and all its other keys."""
    if not is_object(turn):
        raise CalibrationError(
            f"{where} is {type(turn).__name__}. Give an object with 'role' and 'content'."
        )
    message = {key: value for key, value in turn.items() if value is not None}
    if "role" not in message and "from" in message:
        message = _sharegpt(message, where)
    if "role" not in message:
        raise CalibrationError(
            f"{where} has {', '.join(map(repr, turn)) or 'no key'}, but no 'role'. Give 'role' and "
            "'content'."
        )
    role = str(message["role"])
    message["role"] = ROLES.get(role.lower(), role)
    if is_object(call := message.pop("function_call", None)):
        message.setdefault("tool_calls", [{"type": "function", "function": call}])
    if isinstance(calls := message.get("tool_calls"), str):
        message["tool_calls"] = _parsed(calls, f"{where}.tool_calls")
    if is_object(content := message.get("content")):
        message["content"] = [content]
    elif content is not None and not isinstance(content, (str, list)):
        message["content"] = str(content)
    elif content is None and not any(message.get(name) for name in INSTEAD_OF_CONTENT):
        raise CalibrationError(
            f"{where} ({role}) has no 'content'. Give a string or a list of parts; only a message "
            "with 'tool_calls' goes without."
        )
    return message


def _sharegpt(message: dict[str, Any], where: str) -> dict[str, Any]:
    """A turn of ShareGPT as a message."""
    role, value = str(message.pop("from")), message.pop("value", None)
    if role.lower() not in SHAREGPT_ROLES:
        raise CalibrationError(
            f"{where} is from {role!r}. Use one of {', '.join(sorted(SHAREGPT_ROLES))}."
        )
    if role.lower() != "function_call":
        return {**message, "role": role, "content": value}
    calls = _parsed(value, f"{where}.value") if isinstance(value, str) else value
    functions: list[Any] = calls if is_list(calls) else [calls]
    calls = [{"type": "function", "function": function} for function in functions]
    return {**message, "role": "assistant", "tool_calls": calls}


def _tool(tool: Any, where: str) -> dict[str, Any]:
    """A tool in OpenAI's form; bare functions are wrapped."""
    tool = _parsed(tool, where) if isinstance(tool, str) else tool
    if not is_object(tool):
        raise CalibrationError(f"{where} is {type(tool).__name__}. Give a function's JSON schema.")
    bare = "name" in tool and not {"function", "type"} & tool.keys()
    return {"type": "function", "function": tool} if bare else tool


def _list(fields: dict[str, Any], name: str, where: str) -> list[Any]:
    """The list `name`, taken out of `fields`; tables have it as a string of JSON."""
    value = fields.pop(name, None)
    if isinstance(value, str):
        value = _parsed(value, f"{where}: {name!r}") if value.strip() else None
    if value is None:
        return []
    if not is_sequence(value):
        raise CalibrationError(
            f"{where}: found {name!r}, which is {type(value).__name__}. Give a list."
        )
    return list(value)


def _parsed(value: str, where: str) -> Any:
    try:
        return parse_json(value)
    except ValueError as error:
        raise CalibrationError(
            f"{where} is a string that is not JSON ({error}). Write it with json.dumps."
        ) from None


def _plain(value: Any) -> Any:
    """`value` as JSON has it; bytes, images and dates of tables become the name of their type."""
    if is_object(value):
        return {str(key): _plain(item) for key, item in value.items()}
    if is_sequence(value):
        return [_plain(item) for item in value]
    scalar = value is None or isinstance(value, (str, int, float))
    return value if scalar else f"<{type(value).__name__}>"


def _check_characters(row: dict[str, Any], where: str) -> None:
    """Raise CalibrationError for half a surrogate pair, which no tokenizer reads."""
    for path, text in _strings(row, ""):
        if half := half_pair(text):
            raise CalibrationError(f"{where}: {path} holds {half}. Give whole Unicode characters.")


def _strings(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif is_object(value):
        for key, item in value.items():
            yield f"a key of {path or 'the row'}", str(key)
            yield from _strings(item, f"{path}.{key}" if path else str(key))
    elif is_list(value):
        for number, item in enumerate(value):
            yield from _strings(item, f"{path}[{number}]")
