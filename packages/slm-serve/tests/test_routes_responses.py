"""``POST /v1/responses``, used by OpenAI's own client: its answers are those of a chat."""

from typing import Any

import openai
import pytest
from openai import OpenAI

from slm_serve.http.responses_api.output_items import OutputItems
from slm_testing.serve.http_clients import openai_client
from slm_testing.serve.running_server import RunningServer

QUESTION = "Who lives in the wood?"
GREEDY: Any = {"model": "sample", "temperature": 0}
LIMITED: Any = {**GREEDY, "max_output_tokens": 12}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> OpenAI:
    return openai_client(server.url)


def chat(client: OpenAI, messages: list[Any], **options: Any) -> Any:
    return client.chat.completions.create(messages=messages, max_tokens=12, **GREEDY, **options)


def test_the_answer_and_the_usage_are_those_of_the_chat(client: OpenAI) -> None:
    expected = chat(client, [{"role": "system", "content": "Be kind."}, {"role": "user", "content": QUESTION}])
    response = client.responses.create(instructions="Be kind.", input=QUESTION, **LIMITED)
    assert response.output_text == expected.choices[0].message.content
    assert response.usage
    assert response.usage.input_tokens == expected.usage.prompt_tokens
    assert response.usage.output_tokens == expected.usage.completion_tokens
    assert response.status == "incomplete"
    assert response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"


def test_an_answer_that_is_not_cut_off_is_completed(client: OpenAI) -> None:
    cut_off: Any = client.responses.create(input=QUESTION, **LIMITED)
    ended: Any = client.responses.create(input=QUESTION, extra_body={"stop": [cut_off.output_text[3:6]]}, **LIMITED)
    for response, status in ((cut_off, "incomplete"), (ended, "completed")):
        assert (response.status, response.output[0].status) == (status, status)
    assert ended.incomplete_details is None


def test_a_conversation_has_the_prompt_of_the_same_chat(client: OpenAI) -> None:
    call: Any = {"call_id": "c1", "name": "look", "arguments": '{"place": "wood"}'}
    items: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me look."}]},
        {"type": "function_call", **call},
        {"type": "function_call_output", "call_id": "c1", "output": "a fox"},
    ]
    function = {"name": call["name"], "arguments": call["arguments"]}
    messages: list[Any] = [
        {"role": "user", "content": QUESTION},
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a fox"},
    ]
    response, expected = client.responses.create(input=items, **LIMITED), chat(client, messages)
    assert response.usage
    assert response.usage.input_tokens == expected.usage.prompt_tokens
    assert response.output_text == expected.choices[0].message.content


def test_a_stream_has_the_events_of_the_whole_response(client: OpenAI) -> None:
    whole = client.responses.create(input=QUESTION, **LIMITED)
    events = list(client.responses.create(input=QUESTION, stream=True, **LIMITED))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == whole.output_text
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage


@pytest.mark.parametrize("field", [{"stop": None}, {"logit_bias": {"5": 100}}, {"repetition_penalty": 5.0}])
def test_fields_of_chats_have_the_effect_that_they_have_there(client: OpenAI, field: dict[str, Any]) -> None:
    plain = client.responses.create(input=QUESTION, **LIMITED).output_text
    field = field if field.get("stop", True) else {"stop": [plain[3:6]]}
    expected = chat(client, [{"role": "user", "content": QUESTION}], extra_body=field)
    response = client.responses.create(input=QUESTION, extra_body=field, **LIMITED)
    assert response.output_text == expected.choices[0].message.content
    assert response.output_text != plain


def test_logprobs_are_those_of_the_chat(client: OpenAI) -> None:
    content = chat(client, [{"role": "user", "content": QUESTION}], logprobs=True, top_logprobs=2).choices[0].logprobs
    response: Any = client.responses.create(input=QUESTION, top_logprobs=2, **LIMITED)
    (part,) = response.output[0].content
    assert len(part.logprobs) == 12
    assert [each.model_dump() for each in part.logprobs] == [each.model_dump() for each in content.content]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"seed": "x"}, "seed"),
        ({"num_beams": 3}, "num_beams"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input.0.content.0"),
        ({"input": [{"role": "user", "content": "x"}, {"type": "item_reference", "id": "x"}]}, "input.1"),
        ({"instructions": "x", "input": [{"role": "user", "content": 3}]}, "input.0.content"),
        ({"input": []}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
    ],
)
def test_what_is_not_possible_is_refused_by_name(server: RunningServer, fields: dict[str, Any], param: str) -> None:
    response = server.post("/v1/responses", {"input": QUESTION, **fields})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"].startswith(param)
    assert error["param"] in error["message"]


def test_fields_without_effect_are_listed(server: RunningServer) -> None:
    body = {"input": QUESTION, "max_output_tokens": 1, "store": True, "reasoning": {"effort": "low"}, "metadata": {}}
    response = server.post("/v1/responses", body)
    assert response.status_code == 200
    assert set(response.headers["x-slm-ignored"].split(", ")) == {"store", "reasoning"}
    assert response.json()["store"] is False


def test_a_stream_that_runs_out_of_time_ends_with_a_failed_response(slow_server: RunningServer) -> None:
    client = openai_client(slow_server.url)
    slow_server.service.settings.__dict__["request_timeout"] = 0.2
    try:
        events = list(client.responses.create(input="x", max_output_tokens=100, stream=True))
    finally:
        slow_server.service.settings.__dict__["request_timeout"] = 120
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error
    assert "0.2 s" in last.response.error.message


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="green"):
        client.responses.create(model="green", input=QUESTION)


def test_text_and_calls_become_items_of_their_own() -> None:
    output = OutputItems()
    deltas: list[dict[str, Any]] = [
        {"content": "Let "},
        {"content": "me look."},
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "look", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
        {"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "rest", "arguments": "{}"}}]},
    ]
    events = [event for delta in deltas for event in output.add(delta)] + list(output.finish("completed"))
    message, *calls = output.items
    assert message["content"][0]["text"] == "Let me look."
    assert [(call["call_id"], call["name"], call["arguments"]) for call in calls] == [
        ("c1", "look", '{"a": 1}'),
        ("c2", "rest", "{}"),
    ]
    assert all(item["status"] == "completed" for item in output.items)
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert [item.get("arguments", item.get("content")) for item in added] == [[], "", ""]
    done = [event["item"]["id"] for event in events if event["type"] == "response.output_item.done"]
    assert done == [item["id"] for item in output.items]


def test_an_empty_answer_is_a_message_without_text() -> None:
    output = OutputItems()
    list(output.finish("completed"))
    assert [item["content"][0]["text"] for item in output.items] == [""]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}}, "tool_choice"),
        ({"input": [{"role": "assistant", "content": "a", "prefix": True}]}, "input.0.prefix"),
        (
            {"input": [{"role": "user", "content": "a", "tool_calls": [{"function": {"name": "f"}}]}]},
            "input.0.tool_calls",
        ),
        ({"input": [{"role": "user", "content": [{"type": ["text"], "text": "a"}]}]}, "input.0.content.0"),
    ],
)
def test_what_would_change_the_answer_is_not_left_out_of_the_chat(
    server: RunningServer, fields: dict[str, Any], named: str
) -> None:
    response = server.post("/v1/responses", {"input": "Hello", **LIMITED, **fields})
    assert response.status_code == 400, response.text
    assert named in response.json()["error"]["message"]


def test_messages_have_the_fields_of_chats_and_ignored_ones_are_listed(server: RunningServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages: list[Any] = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "a fox"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "And now?"},
    ]
    extra = {"name": "ann", "weight": 1, "id": "m1", "status": "completed"}
    items = [*messages[:-1], messages[-1] | extra]
    expected = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 12, **GREEDY})
    response = server.post("/v1/responses", {"input": items, "user": "x", **LIMITED})
    assert response.json()["usage"]["input_tokens"] == expected.json()["usage"]["prompt_tokens"]
    text = expected.json()["choices"][0]["message"]["content"]
    assert response.json()["output"][0]["content"][0]["text"] == text
    assert response.headers["x-slm-ignored"] == "user, input.weight, input.name"
