"""Rows of data sets: nothing of a conversation is lost, and each fault names its row and field."""

import json

import pytest

from helpers.chat_templates import ANSWER, CALL, RESULT, TOOL_ROW, USER, WEATHER
from salient.core.conversations import Document, to_document
from salient.core.corpus import read_texts
from salient.core.errors import CalibrationError

WHERE = "rows.jsonl, line 3"
TALK = (USER, ANSWER)
PARTS = [{"type": "text", "text": "One "}, {"type": "image"}, {"type": "text", "text": "two"}]


def test_every_key_of_a_message_and_of_a_row_is_read():
    row = {
        **TOOL_ROW,
        "messages": [USER | {"name": "Ann", "weight": 0.5}, CALL, RESULT, ANSWER],
        "documents": [{"title": "Oslo", "text": "A city"}],
        "enable_thinking": True,
        "kind": "chat",
    }
    document = to_document(row, WHERE)
    assert document.messages == (USER | {"name": "Ann", "weight": 0.5}, CALL, RESULT, ANSWER)
    assert document.tools == (WEATHER,)
    assert document.documents == ({"title": "Oslo", "text": "A city"},)
    assert document.variables == {"enable_thinking": True}
    assert (document.kind, document.where) == ("chat", WHERE)


def test_content_may_be_a_list_of_parts_and_absent_only_where_a_tool_is_called():
    listed = {"role": "user", "content": PARTS}
    document = to_document({"messages": [listed, CALL | {"content": None}]}, WHERE)
    assert document.messages == (listed, CALL)
    with pytest.raises(
        CalibrationError, match=r"line 3: messages\[1\] \(assistant\) has no 'content'\. .*tool_c"
    ):
        to_document({"messages": [USER, {"role": "assistant", "content": None}]}, WHERE)


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
            [("user", "Hi"), ("assistant", "Yo")],
        ),
        (
            {"conversations": [{"from": "human", "value": "Hi"}], "system": "Be kind."},
            [("system", "Be kind."), ("user", "Hi")],
        ),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            [("user", "Add.\n\n1 2"), ("assistant", "3")],
        ),
        (
            {"instruction": "Go on.", "input": "", "output": "So", "history": [["a", "b"]]},
            [("user", "a"), ("assistant", "b"), ("user", "Go on."), ("assistant", "So")],
        ),
        ({"prompt": [USER], "completion": [ANSWER]}, [(m["role"], m["content"]) for m in TALK]),
        ([USER, ANSWER], [(m["role"], m["content"]) for m in TALK]),
        ({"messages": json.dumps(TALK)}, [(m["role"], m["content"]) for m in TALK]),
        ({"messages": [{"role": "human", "content": "Hi"}]}, [("user", "Hi")]),
        ({"messages": [{"role": "user", "content": 5}]}, [("user", "5")]),
    ],
)
def test_the_usual_forms_of_conversations_are_converted(row, messages):
    document = to_document(row, WHERE)
    assert [(m["role"], m["content"]) for m in document.messages] == messages


def test_bare_strings_and_pairs_of_strings_are_texts():
    assert to_document("One", WHERE) == Document("One")
    assert to_document({"prompt": "One ", "completion": "two"}, WHERE) == Document("One two")


def test_older_forms_of_tools_are_converted():
    function = WEATHER["function"]
    called = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    for row in (
        {"messages": [USER, {"role": "assistant", "function_call": called}]},
        {
            "conversations": [
                {"from": "human", "value": USER["content"]},
                {"from": "function_call", "value": json.dumps(called)},
            ]
        },
        {
            "messages": [
                USER,
                {"role": "assistant", "tool_calls": json.dumps([{"function": called}])},
            ]
        },
    ):
        (call,) = to_document(row, WHERE).messages[1]["tool_calls"]
        assert call["function"] == called
    for tools in (
        {"functions": [function]},
        {"tools": [function]},
        {"tools": json.dumps([WEATHER])},
    ):
        assert to_document({"messages": [USER], **tools}, WHERE).tools == (WEATHER,)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": None}, r"line 3: found 'text'; 'text' is null\. Give it a string, or remove the"),
        ({"text": 5}, r"'text' is int"),
        ({"messages": "Hi"}, r"'messages' is a string that is not JSON"),
        ({"messages": {"role": "user"}}, r"found 'messages', which is dict\. Give a list"),
        ({"messages": ["Hi"]}, r"messages\[0\] is str\. Give an object with 'role' and 'content'"),
        ({"messages": [USER, {"role": "user"}]}, r"messages\[1\] \(user\) has no 'content'"),
        ({"messages": [{"content": "a"}]}, r"messages\[0\] has 'content', but no 'role'"),
        (
            {"conversations": [{"from": "narrator", "value": "a"}]},
            r"\[0\] is from 'narrator'\. Use",
        ),
        ({"question": "a", "answer": "b"}, r'Convert it: \{"messages": .* "content": question\}'),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, r'"content": chosen\}'),
        ({"content": "a", "id": 3}, r"found 'content', 'id'\. .* Rename 'content' to 'text'"),
        ({"text": "ab\ud83d"}, r"line 3: text holds half a character at position 2 \('\\ud83d'\)"),
        ({"messages": [USER | {"content": "\ude00"}]}, r"messages\[0\]\.content holds half a"),
        ({"messages": [USER], "tools": [{"\ud83d": 1}]}, r"a key of tools\[0\] holds half"),
        ({"messages": [USER], "tools": ["{"]}, r"tools\[0\] is a string that is not JSON"),
        ({"messages": [USER], "tools": [5]}, r"tools\[0\] is int\. Give a function's JSON schema"),
        ({"messages": [USER], "tools": 5}, r"found 'tools', which is int\. Give a list"),
    ],
)
def test_a_row_at_fault_is_named_with_its_field_and_what_fits(row, message):
    with pytest.raises(
        CalibrationError, match=r"^rows\.jsonl, line 3: " + ".*" + message.removeprefix("line 3: ")
    ):
        to_document(row, WHERE)


def test_all_rows_at_fault_are_counted(tmp_path):
    rows = [{"text": None if n % 2 else "One"} for n in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    message = (
        r"line 2: .*is null.* Also at fault: line 4, line 6, line 8, line 10, line 12 and 4 more"
    )
    with pytest.raises(CalibrationError, match=message):
        read_texts(str(tmp_path / "a.jsonl"))
