"""Conversations through chat templates: in the form that each template reads, without a loss."""

import pytest

from helpers.chat_templates import (
    ANSWER,
    BOTH,
    CALL,
    CHATML,
    MISTRAL,
    QWEN_THINKING,
    RESULT,
    SMOLVLM,
    TOOL_ROW,
    USER,
    WEATHER,
    with_template,
)
from salient.core.conversations import to_document
from salient.models.chat_template import (
    LostText,
    render_conversation,
    sample_terms,
    select_template,
)
from salient.models.template_process import TemplateFault


def rendered(template, row, *, strict: bool = True) -> str:
    return render_conversation(with_template(template), to_document(row, "row"), strict=strict)


def parts(text: str, role: str = "user") -> dict:
    return {"role": role, "content": [{"type": "text", "text": text}]}


@pytest.mark.parametrize("message", [USER, parts(USER["content"])])
def test_content_is_a_list_for_templates_that_iterate_it_and_else_a_string(message):
    text = "What is the weather in Oslo?"
    assert rendered(SMOLVLM, {"messages": [message]}) == f"<s>user{text}</s>"
    assert rendered(CHATML, {"messages": [message]}) == f"<|im_start|>user\n{text}<|im_end|>\n"


def test_a_template_that_reads_both_gets_content_as_the_row_has_it():
    assert rendered(BOTH, {"messages": [USER]}) == "user: What is the weather in Oslo?"
    assert rendered(BOTH, {"messages": [parts("Why?")]}) == "user: (Why?)"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content | trim }}{% endfor %}",
        "{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
        "{% for m in messages %}{{ m['role'] ~ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}",
    ],
)
def test_a_list_of_parts_is_never_printed_as_it_is(template):
    text = rendered(template, {"messages": [parts("Why is that?")]})
    assert "Why is that?" in text
    assert "type" not in text


def test_tools_and_calls_reach_the_template():
    text = rendered(MISTRAL, TOOL_ROW)
    assert "[AVAILABLE_TOOLS]" in text
    assert '"name": "get_weather", "arguments": {"city": "Oslo"}}, "id": abcdefghi' in text
    assert "[TOOL_RESULTS]Minus four degrees[/TOOL_RESULTS]" in text


def test_other_keys_of_a_row_reach_the_template_but_not_its_special_tokens():
    row = {"messages": [USER], "tone": "kind", "bos_token": "<evil>", "add_generation_prompt": True}
    template = "{{ bos_token }}{{ tone }}{{ add_generation_prompt }}{{ messages[0].content }}"
    assert rendered(template, row) == "<s>kindFalse" + USER["content"]


def test_a_template_without_a_place_for_a_field_is_refused_with_field_and_word():
    for row, field, term in (
        (TOOL_ROW, "messages[1].tool_calls", "get_weather"),
        ({"messages": [USER, ANSWER], "tools": [WEATHER]}, "tools[0]", "get_weather"),
        ({"messages": [USER, ANSWER], "documents": [{"text": "Fjord"}]}, "documents[0]", "text"),
        ({"messages": [USER, ANSWER | {"thinking": "Hmm so"}]}, "messages[1].thinking", "Hmm"),
    ):
        with pytest.raises(LostText) as lost:
            rendered(CHATML, row)
        assert (lost.value.field, lost.value.term) == (field, term)


def test_reasoning_of_earlier_turns_may_be_dropped_as_the_model_was_trained():
    thinking = ANSWER | {"reasoning_content": "Because of winter."}
    text = rendered(QWEN_THINKING, {"messages": [USER, thinking, USER, thinking]})
    assert text.count("<think>Because of winter.</think>") == 1
    with pytest.raises(LostText):
        rendered(CHATML, {"messages": [USER, thinking, USER, ANSWER]})


def test_text_that_a_template_cuts_from_content_is_lost():
    cutting = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    answer = {"role": "assistant", "content": "<think>A long thought</think>Short."}
    with pytest.raises(LostText, match=r"messages\[1\]\.content: 'think'"):
        rendered(cutting, {"messages": [USER, answer]})


@pytest.mark.parametrize(
    "content",
    ["天气怎么样?今天很冷。", "Ĝis la revido! ÄÖÜ", "?!", "a", "😀😀", "x\ny\n\n\tz", " "],
)
@pytest.mark.parametrize("template", [CHATML, SMOLVLM, "{{ messages | tojson }}"])
def test_content_of_any_script_survives(content, template):
    if template.startswith("{{") and not content.strip():
        return
    rendered(template, {"messages": [{"role": "user", "content": content}]})
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"q": content}}}]
    rendered(QWEN_THINKING, {"messages": [USER, {"role": "assistant", "tool_calls": calls}]})


def test_escaped_text_is_detected():
    template = "{% for m in messages %}{{ m.content | tojson(ensure_ascii=True) }}{% endfor %}"
    rendered(template, {"messages": [{"role": "user", "content": "Zoë 天气 😀 upper"}]})
    rendered("{{ messages[0].content | upper }}", {"messages": [USER]})


def test_a_request_takes_the_form_that_writes_its_questions():
    lost = {"messages": [USER, CALL, RESULT]}
    assert "Minus four" in rendered(CHATML, lost, strict=False)
    assert "Oslo" in rendered(SMOLVLM, {"messages": [USER]}, strict=False)


@pytest.mark.parametrize(
    ("row", "template"),
    [
        ({"messages": [USER]}, "D"),
        (TOOL_ROW, "T"),
        ({"messages": [USER], "documents": [{"text": "a"}]}, "R"),
    ],
)
def test_of_several_templates_the_row_selects_one(row, template):
    named = {"default": "D", "tool_use": "T", "rag": "R"}
    assert select_template(named, to_document(row, "row")) == template
    assert select_template({"default": "D"}, to_document(row, "row")) == "D"
    assert select_template({"only": "O"}, to_document(row, "row")) == "O"


def test_several_templates_without_a_default_are_named():
    with pytest.raises(TemplateFault, match=r"the templates 'rag', 'tool_use' and none of them"):
        select_template({"tool_use": "T", "rag": "R"}, to_document({"messages": [USER]}, "row"))


def test_samples_are_spread_over_the_text():
    pattern = [f"word{number}" for number in range(1000)]
    terms = sample_terms(" ".join(pattern))
    assert (terms[0], terms[-1], len(terms)) == ("word0", "word999", 16)
    long = " ".join(f"w{number:07d}" for number in range(200_000))
    assert all(term in long for term in sample_terms(long))
    assert sample_terms("") == []
    assert sample_terms(" ?! ") == ["?!"]
