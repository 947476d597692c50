"""Prompts: what becomes of text and conversations, and what is said where nothing can."""

import re
from types import SimpleNamespace

import pytest
from tokenizers import processors

from helpers.tokenizers import TOKENIZERS
from helpers.toy_models import byte_tokenizer
from salient.core.errors import ModelError, RequestError
from salient.runtime.tokenization import chat_ids, check_length, eos_ids, prompt_ids

TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
FUSSY = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}" + TEMPLATE
)
CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why? 😀"}]


def chatty(template: str = TEMPLATE):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def beginning(tokenizer):
    """`tokenizer`, made to begin each text with its first special token, as Llama's does."""
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


# Text


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_prompt_is_the_tokens_of_its_text(kind):
    tokenizer = TOKENIZERS[kind]()
    ids = prompt_ids(tokenizer, "The cat 你好")
    assert tokenizer.decode(ids) == "The cat 你好"
    assert all(type(i) is int for i in ids)


def test_a_prompt_has_the_special_tokens_of_its_tokenizer():
    tokenizer = beginning(byte_tokenizer())
    assert prompt_ids(tokenizer, "a")[0] == tokenizer.bos_token_id
    assert prompt_ids(tokenizer, "") == [tokenizer.bos_token_id]


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(RequestError, match=r"The prompt '' has no tokens.*at least one character"):
        prompt_ids(byte_tokenizer(), "")


@pytest.mark.parametrize("text", [None, 7, b"a", ["a"]])
def test_a_prompt_that_is_no_string_is_refused(text):
    with pytest.raises(RequestError, match=re.escape(f"The prompt is {text!r}. Give a string.")):
        prompt_ids(byte_tokenizer(), text)


def test_half_a_character_is_refused_with_its_place():
    with pytest.raises(RequestError, match=r"half a character at position 2 \('\\ud83d'\)"):
        prompt_ids(byte_tokenizer(), "ab\ud83d")
    with pytest.raises(RequestError, match=r"The content of message 0 holds half a character"):
        chat_ids(chatty(), [{"role": "user", "content": "\ude00"}])


# Conversations


def test_a_conversation_is_written_by_the_template_up_to_the_turn_of_the_assistant():
    tokenizer = chatty()
    text = "<s>system: Be kind.</s><s>user: Why? 😀</s><s>assistant:"
    assert tokenizer.decode(chat_ids(tokenizer, CHAT)) == text


def test_the_template_alone_puts_the_special_tokens():
    tokenizer = beginning(chatty())
    assert chat_ids(tokenizer, CHAT).count(tokenizer.bos_token_id) == 3


def test_a_message_may_have_more_than_role_and_content():
    named = [message | {"name": "Ann"} for message in CHAT]
    assert chat_ids(chatty(), named) == chat_ids(chatty(), CHAT)


def test_without_a_chat_template_a_plain_prompt_is_advised():
    with pytest.raises(RequestError, match=r"no chat template.*Use a plain prompt \(completions\)"):
        chat_ids(byte_tokenizer(), CHAT)


def test_a_rejected_conversation_is_an_error_with_the_templates_message():
    expected_message = (
        r"rejects the conversation: System role not supported\. Its roles are system, user; "
    )
    with pytest.raises(
        RequestError, match=expected_message + "give the ones that the model was trained on"
    ):
        chat_ids(chatty(FUSSY), CHAT)
    assert chat_ids(chatty(FUSSY), CHAT[1:])


def test_a_template_with_a_mistake_is_named_with_its_line():
    with pytest.raises(RequestError, match=r"chat template does not render: .*endfor"):
        chat_ids(chatty("{% for message in messages %}"), CHAT)


def test_a_template_that_writes_nothing_is_refused():
    with pytest.raises(RequestError, match=r"makes no tokens.*Use a plain prompt"):
        chat_ids(chatty("{{ '' }}"), CHAT)


@pytest.mark.parametrize(
    ("messages", "expected_message"),
    [
        ([], r"messages=\[\] is not a conversation\. Give a list with at least one"),
        ("Why?", r"messages='Why\?' is not a conversation"),
        (CHAT[0], r"is not a conversation"),
        (["Why?"], r"Message 0 is 'Why\?'\. Give an object with 'role' and 'content'"),
        ([CHAT[0], {"role": "user"}], r"Message 1 is \{'role': 'user'\}\. Give an object"),
        ([CHAT[0] | {"role": "bot"}], r"role 'bot'\. Give one of system, user, assistant, tool\."),
        ([CHAT[0] | {"role": None}], r"Message 0 has the role None\. Give one of system"),
        ([*CHAT, CHAT[0] | {"content": None}], r"The content of message 2 is None\. Give a string"),
        (
            [CHAT[0] | {"content": [{"text": "a"}]}],
            r"message 0 is \[\{'text': 'a'\}\]\. Give a str",
        ),
    ],
)
def test_invalid_messages_are_an_error_with_the_valid_form(messages, expected_message):
    with pytest.raises(RequestError, match=expected_message):
        chat_ids(chatty(), messages)


def test_an_error_shortens_a_long_message():
    with pytest.raises(RequestError) as refused:
        chat_ids(chatty(), [CHAT[0] | {"content": ["a" * 10**6]}])
    assert len(str(refused.value)) < 200


# Where answers end


@pytest.mark.parametrize(
    ("named", "ends"), [(None, {2}), (7, {2, 7}), ([7, 9, 2], {2, 7, 9}), (0, {0, 2}), ((), {2})]
)
def test_eos_ids_are_those_of_the_config_and_the_tokenizer(named, ends):
    assert eos_ids(SimpleNamespace(eos_token_id=named), byte_tokenizer()) == ends


def test_a_config_and_a_tokenizer_without_an_end_have_none():
    nothing = SimpleNamespace(eos_token_id=None)
    assert eos_ids(nothing, nothing) == frozenset()
    assert eos_ids(None, nothing) == frozenset()


@pytest.mark.parametrize(("tokens", "room"), [(1, 20), (80, 20), (90, 10), (99, 1)])
def test_an_answer_is_limited_by_max_new_tokens_and_the_context(tokens, room):
    assert check_length(range(tokens), 20, 100) == room


@pytest.mark.parametrize(("tokens", "fewer"), [(100, 1), (101, 2), (5000, 4901)])
def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers(tokens, fewer):
    expected_message = (
        f"A prompt of {tokens} tokens, the context is 100: .* by {fewer} tokens or more"
    )
    with pytest.raises(RequestError, match=expected_message):
        check_length(range(tokens), 20, 100)


@pytest.mark.parametrize("named", [[[2]], "2", {"a": 1}, 2.0, True, [2, None, [3]]])
def test_an_eos_id_that_is_no_number_is_refused(named):
    with pytest.raises(ModelError, match=r"eos_token_id .* is no token id: a whole number"):
        eos_ids(SimpleNamespace(eos_token_id=named), byte_tokenizer())
