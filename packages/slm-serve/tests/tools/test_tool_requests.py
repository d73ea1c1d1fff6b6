"""Which tools are accepted, how they combine with formats of the answer, and calls that the model begins by itself."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from slm_testing.serve.running_server import RunningServer, running_server
from slm_testing.serve.tool_models import save_tool_model

CHAT = "/v1/chat/completions"
ARGUMENTS = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
ANSWER = {"type": "object", "properties": {"sky": {"enum": ["clear", "rain"]}}, "required": ["sky"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER}}


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "get_weather", "parameters": ARGUMENTS} | function}


def body(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "How is it in Rome?"}]
    return {"messages": messages, "tools": [tool()], "max_tokens": 120, "temperature": 0, "seed": 1} | fields


@pytest.fixture(scope="module")
def hermes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(model_path=str(save_tool_model(tmp_path_factory.mktemp("hermes"), "hermes"))) as running:
        yield running


@pytest.mark.parametrize(
    ("fields", "param", "part"),
    [
        ({"tools": [tool(parameters={"type": "string"})]}, "tools.0.function.parameters", "the type 'object'"),
        ({"tools": [tool(parameters=[])]}, "tools.0.function.parameters", ""),
        ({"tools": [tool(name="get weather")]}, "tools.0.function.name", ""),
        ({"tools": [tool(name="")]}, "tools.0.function.name", ""),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name", "missing"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "missing"),
        ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, "tools.0.type", "function"),
        ({"tools": [tool(), tool()]}, "tools", "two functions named 'get_weather'"),
        ({"tools": "all"}, "tools", "list"),
        ({"tools": [tool()] * 129}, "tools", "128"),
        ({"tool_choice": "any"}, "tool_choice", "required"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "get_weather"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "add tools"),
        ({"guided_regex": "a"}, "tools", "exclude each other"),
        (
            {"tools": [tool(name="f"), tool(parameters={"type": "object", "not": {}})]},
            "tools.1.function.parameters",
            "the JSON schema has keywords that are not supported: not",
        ),
        (
            {"tools": [tool(parameters={"type": "object", "x-guidance": {"lenient": True}, "propertyNames": {}})]},
            "tools.0.function.parameters",
            "not supported: propertyNames",
        ),
    ],
)
def test_invalid_tools_are_refused_by_their_place(
    hermes: RunningServer, fields: dict[str, Any], param: str, part: str
) -> None:
    response = hermes.post(CHAT, body(**fields))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert part in error["message"]
    assert "\n" not in error["message"]


def test_a_model_whose_template_has_no_tools_says_so(server: RunningServer) -> None:
    response = server.post(CHAT, body())
    assert response.status_code == 400
    assert "the model's chat template has no tools" in response.json()["error"]["message"]
    assert server.post(CHAT, body(tool_choice="none", max_tokens=1)).status_code == 200


@pytest.mark.parametrize("seed", range(4))
def test_with_a_format_the_answer_is_json_or_a_call(hermes: RunningServer, seed: int) -> None:
    choice = hermes.post(
        CHAT, body(response_format=FORMAT, temperature=1, seed=seed, parallel_tool_calls=False)
    ).json()["choices"][0]
    if choice["finish_reason"] == "tool_calls":
        assert choice["message"]["content"] is None
        jsonschema.validate(json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]), ARGUMENTS)
    else:
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), ANSWER)


def test_a_required_call_takes_precedence_over_a_format(hermes: RunningServer) -> None:
    answer = hermes.post(CHAT, body(response_format=FORMAT, tool_choice="required")).json()
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


def test_a_marker_in_a_free_answer_begins_a_valid_call(hermes: RunningServer) -> None:
    """The answer continues the assistant's text, which ends with the beginning of a call's marker."""
    started = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I look it up.\n<tool_call>"}]
    bias = {
        str(token): 60.0
        for token in hermes.post("/tokenize", {"prompt": "<tool_call>", "add_special_tokens": False}).json()["tokens"]
    }
    texts = hermes.post(CHAT, body(messages=started[:1], logit_bias=bias, max_tokens=200, n=4, temperature=1)).json()
    for choice in texts["choices"]:
        message = choice["message"]
        if "tool_calls" in message:
            assert choice["finish_reason"] in ("tool_calls", "length")
            assert "<tool_call>" not in (message["content"] or "")
        else:
            assert "<tool_call>" not in message["content"]


def test_parallel_calls_are_numbered(hermes: RunningServer) -> None:
    choice = hermes.post(CHAT, body(tool_choice="required", max_tokens=400, temperature=1)).json()["choices"][0]
    calls = choice["message"]["tool_calls"]
    assert len({call["id"] for call in calls}) == len(calls)
    for call in calls[:-1]:
        jsonschema.validate(json.loads(call["function"]["arguments"]), ARGUMENTS)


def test_fields_of_tools_that_change_nothing_are_accepted(hermes: RunningServer) -> None:
    fields: dict[str, Any] = {"tools": [tool(strict=None, description=None)], "tool_choice": "auto"}
    assert hermes.post(CHAT, body(**fields, parallel_tool_calls=True, max_tokens=1)).status_code == 200
    assert hermes.post(CHAT, body(tools=[], tool_choice="auto", parallel_tool_calls=False)).status_code == 200
    assert hermes.post(CHAT, body(tools=None, tool_choice=None, max_tokens=1)).status_code == 200
