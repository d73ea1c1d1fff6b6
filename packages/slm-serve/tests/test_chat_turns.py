"""Histories with tools and system messages, for templates that render them and for templates that do not."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from slm_data import PLAIN_TEMPLATE, sample_base
from slm_serve.errors import RequestError
from slm_serve.http.prompts.chat_prompt import chat_prompt
from slm_serve.http.schemas.messages import Message
from slm_testing.data.chat_templates import FAMILIES

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Graz"}'}}
QUESTION = {"role": "user", "content": "Is it warm?"}
TOOLS = [
    QUESTION,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "21 degrees", "tool_call_id": "c1"},
]
# In the manner of Hermes and Qwen: calls as JSON in tags, results in turns of the user.
TOOL_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}<result>{{ m.content }}</result>"
    "{% else %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>{% endfor %}"
    "{% endif %}{% endfor %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


def rendered(template: str, messages: list[Any]) -> str:
    tokenizer: Any = AutoTokenizer.from_pretrained(sample_base())
    tokenizer.chat_template = template
    return chat_prompt(tokenizer, [Message.model_validate(message) for message in messages]).text


def test_a_template_that_knows_tools_gets_calls_with_their_arguments_as_objects() -> None:
    assert rendered(TOOL_TEMPLATE, TOOLS) == (
        '<user>Is it warm?<assistant><call>weather {"town": "Graz"}</call><result>21 degrees</result>'
    )


def test_a_template_that_demands_ids_of_nine_characters_gets_them_for_calls_and_results_alike() -> None:
    template = TOOL_TEMPLATE.replace(
        "{{ m.content }}</result>",
        "{% if m.tool_call_id | length != 9 %}{{ raise_exception('length 9') }}{% endif %}"
        "{{ m.tool_call_id }} {{ m.content }}</result>",
    ).replace("<call>", "<call>{{ c.id }} ")
    text = rendered(template, TOOLS)
    call_id = text.partition("<call>")[2].partition(" ")[0]
    assert len(call_id) == 9
    assert f"<result>{call_id} 21 degrees</result>" in text


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, FAMILIES["gemma"].source, FAMILIES["zephyr"].source, ALTERNATING])
def test_calls_and_results_are_written_as_text_where_the_template_would_lose_or_reject_them(template: str) -> None:
    text = rendered(template, [*TOOLS, {"role": "user", "content": "Thanks"}])
    assert '{"name": "weather", "arguments": {"town": "Graz"}}' in text
    assert "Result of weather: 21 degrees\n\nThanks" in text


def test_older_calls_of_functions_are_calls_too() -> None:
    older = [
        QUESTION,
        {"role": "assistant", "content": "Let me see.", "function_call": {"name": "weather", "arguments": "{"}},
        {"role": "function", "name": "weather", "content": "21 degrees"},
    ]
    assert rendered(PLAIN_TEMPLATE, older) == (
        'User: Is it warm?\n\nAssistant: Let me see.\n{"name": "weather", "arguments": "{"}\n\n'
        "User: Result of weather: 21 degrees\n\nAssistant:"
    )


@pytest.mark.parametrize("template", [FAMILIES["gemma"].source, ALTERNATING])
@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_that_the_template_rejects_begins_the_turn_of_the_user(template: str, role: str) -> None:
    text = rendered(template, [{"role": role, "content": "Be kind."}, QUESTION])
    assert "user" in text
    assert "Be kind.\n\nIs it warm?" in text


def test_a_system_message_that_the_template_leaves_out_begins_the_turn_of_the_user() -> None:
    template = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    messages = [QUESTION, {"role": "assistant", "content": "Yes."}, {"role": "system", "content": "Be brief."}]
    assert rendered(template, messages) == "<user>Is it warm?<assistant>Yes.<user>Be brief."


def test_a_developer_is_the_system_unless_the_template_knows_developers() -> None:
    messages = [{"role": "developer", "content": "Be kind."}, QUESTION]
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert rendered(template, messages) == "<system>Be kind.<user>Is it warm?"
    assert rendered(template + "{# developer #}", messages) == "<developer>Be kind.<user>Is it warm?"


def test_messages_that_are_lost_in_any_form_are_an_error() -> None:
    with pytest.raises(RequestError, match="leaves out message 1, of the role 'user'"):
        rendered("{{ messages[-1].content }}", [QUESTION, {"role": "user", "content": "Well?"}])


def test_a_refusal_is_what_the_assistant_said() -> None:
    messages = [QUESTION, {"role": "assistant", "content": None, "refusal": "I cannot say."}, QUESTION]
    assert "Assistant: I cannot say." in rendered(PLAIN_TEMPLATE, messages)
