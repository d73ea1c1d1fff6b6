"""Prompts of chats, by template or in the plain format."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from slm_data import PLAIN_STOPS, PLAIN_TEMPLATE, choose_template, sample_base, saved_template
from slm_serve.errors import RequestError
from slm_serve.http.prompts.chat_prompt import chat_prompt
from slm_serve.http.schemas.messages import Message, TextPart
from slm_testing.data.chat_templates import FAMILIES

MESSAGES = [
    Message(role="developer", content="Be kind."),
    Message(role="user", content=[TextPart(type="text", text="Hel"), TextPart(type="text", text="lo")]),
    Message(role="assistant", content="Hi."),
    Message(role="user", content="How are you?"),
]


@pytest.fixture
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(sample_base())


@pytest.mark.parametrize("template", [None, "", PLAIN_TEMPLATE, "{{ bos_token }}" + PLAIN_TEMPLATE])
def test_the_plain_format_is_tokenised_like_a_text(template: str | None, tokenizer: Any) -> None:
    tokenizer.chat_template = template
    prompt = chat_prompt(tokenizer, MESSAGES)
    assert prompt.text == "System: Be kind.\n\nUser: Hello\n\nAssistant: Hi.\n\nUser: How are you?\n\nAssistant:"
    assert prompt.add_special_tokens
    assert prompt.stop == PLAIN_STOPS


def test_a_template_writes_its_own_special_tokens(tokenizer: Any) -> None:
    tokenizer.chat_template = FAMILIES["zephyr"].source
    prompt = chat_prompt(tokenizer, [Message(role="user", content="Hello")])
    assert prompt.text == "<|user|>\nHello<|endoftext|>\n<|assistant|>\n"
    assert not prompt.add_special_tokens
    assert prompt.stop == ()


def test_an_end_of_turn_that_is_spelled_out_is_a_stop_string(tokenizer: Any) -> None:
    tokenizer.chat_template = saved_template(choose_template("chatml", tokenizer), tokenizer)
    prompt = chat_prompt(tokenizer, [Message(role="user", content="Hello")])
    assert prompt.text == "<|startoftext|><|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.stop == ("<|im_end|>",)
    with_token = AutoTokenizer.from_pretrained(sample_base(), additional_special_tokens=["<|im_end|>"])
    with_token.chat_template = tokenizer.chat_template
    assert chat_prompt(with_token, [Message(role="user", content="Hello")]).stop == ()


@pytest.mark.parametrize("template", ["{% for m in messages %}", "{{ messages[0].content }}"])
def test_messages_that_the_template_rejects_or_loses_are_an_error_of_the_request(template: str, tokenizer: Any) -> None:
    tokenizer.chat_template = template
    with pytest.raises(RequestError, match="chat template rejects these messages") as error:
        chat_prompt(tokenizer, MESSAGES)
    assert error.value.status == 422


def test_the_last_message_of_the_assistant_is_continued_on_request(tokenizer: Any) -> None:
    messages = [Message(role="user", content="Count."), Message(role="assistant", content="One, two,")]
    assert chat_prompt(tokenizer, messages).text == "User: Count.\n\nAssistant: One, two,\n\nAssistant:"
    continued = chat_prompt(tokenizer, messages, continue_final=True)
    assert continued.text == "User: Count.\n\nAssistant: One, two,"
    tokenizer.chat_template = FAMILIES["zephyr"].source
    assert chat_prompt(tokenizer, messages, continue_final=True).text.endswith("<|assistant|>\nOne, two,")
    closed = chat_prompt(tokenizer, messages, opens_answer=False)
    assert closed.text.endswith("One, two,<|endoftext|>\n")


def test_variables_reach_the_template_but_not_the_arguments_of_transformers(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[0].content }}{% if thinks %}<think>{% endif %}"
    messages = [Message(role="user", content="Hello")]
    assert chat_prompt(tokenizer, messages, variables={"thinks": True}).text == "Hello<think>"
    for name in ("tokenize", "messages", "chat_template", "conversation"):
        with pytest.raises(RequestError, match=name):
            chat_prompt(tokenizer, messages, variables={name: "x"})
