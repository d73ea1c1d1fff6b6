"""Tool calls of the chat endpoint, with the templates of several families of models."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from slm_serve.http.schemas.chat import ChatCompletion
from slm_testing.data.tool_templates import TOOL_FAMILIES
from slm_testing.serve.running_server import RunningServer, running_server
from slm_testing.serve.tool_models import save_tool_model

CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
COUNT = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}, "of": {"$ref": "#/$defs/thing"}},
    "required": ["n", "of"],
    "$defs": {"thing": {"enum": ["cats", "dogs"]}},
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": CITY}},
    {"type": "function", "function": {"name": "get", "parameters": COUNT, "strict": True}},
    {"type": "function", "function": {"name": "stop"}},
]
SCHEMAS = {"get_weather": CITY, "get": COUNT, "stop": {"type": "object", "maxProperties": 0}}
BODY = {"messages": [{"role": "user", "content": "How is it in Rome?"}], "max_tokens": 120, "temperature": 0, "seed": 1}


@pytest.fixture(scope="module", params=TOOL_FAMILIES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = save_tool_model(tmp_path_factory.mktemp("model"), request.param)
    with running_server(model_path=str(folder), speculate="off") as running:  # each event has one token
        yield running


def ask(server: RunningServer, **fields: Any) -> dict[str, Any]:
    response = server.post("/v1/chat/completions", BODY | {"tools": TOOLS} | fields)
    assert response.status_code == 200, response.text
    ChatCompletion.model_validate(response.json())
    answer: dict[str, Any] = response.json()
    return answer


def stream(server: RunningServer, **fields: Any) -> list[dict[str, Any]]:
    body = BODY | {"tools": TOOLS, "stream": True} | fields
    with server.stream("/v1/chat/completions", body) as response:
        assert response.status_code == 200
        lines = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def check_call(call: dict[str, Any]) -> None:
    assert call["type"] == "function"
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]])


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_required_call_is_valid(server: RunningServer, temperature: float) -> None:
    answer = ask(server, tool_choice="required", temperature=temperature, n=3, parallel_tool_calls=False)
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        check_call(call)
    ids = [choice["message"]["tool_calls"][0]["id"] for choice in answer["choices"]]
    assert len(set(ids)) == 3


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_named_function_is_called(server: RunningServer, name: str) -> None:
    answer = ask(server, tool_choice={"type": "function", "function": {"name": name}})
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == name
    check_call(call)


def test_a_stream_has_the_same_calls(server: RunningServer) -> None:
    fields: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": False, "logprobs": True, "n": 2}
    whole = ask(server, **fields)
    chunks = stream(server, **fields, stream_options={"include_usage": True})
    assert chunks[-1]["usage"] == whole["usage"]
    for index, choice in enumerate(whole["choices"]):
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == index]
        deltas = [call for part in parts for call in part["delta"].get("tool_calls", ())]
        assert [call["index"] for call in deltas] == [0] * len(deltas)
        assert deltas[0]["function"]["name"] == choice["message"]["tool_calls"][0]["function"]["name"]
        assert all("id" not in call and "name" not in call["function"] for call in deltas[1:])
        arguments = "".join(call["function"]["arguments"] for call in deltas)
        assert arguments == choice["message"]["tool_calls"][0]["function"]["arguments"]
        assert len(deltas) > 2
        assert "".join(part["delta"].get("content") or "" for part in parts) == ""
        assert parts[-1]["finish_reason"] == "tool_calls"
        tokens = [token for part in parts for token in (part["logprobs"] or {"content": []})["content"]]
        assert tokens == choice["logprobs"]["content"]


def test_without_a_call_the_answer_is_the_text(server: RunningServer) -> None:
    choice = ask(server, temperature=1, max_tokens=20)["choices"][0]
    assert choice["message"].get("tool_calls") is None
    assert len(choice["message"]["content"]) > 10
    chunks = stream(server, temperature=1, max_tokens=20)
    content = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert content == choice["message"]["content"]
    assert choice["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_a_call_that_the_model_begins_is_valid(server: RunningServer, request: pytest.FixtureRequest) -> None:
    """With a bias, the model begins a call where it is free to write anything."""
    family = TOOL_FAMILIES[request.node.callspec.params["server"]]
    first = server.post("/tokenize", {"prompt": family.one, "add_special_tokens": False}).json()["tokens"][:1]
    tokens = dict.fromkeys(map(str, first), 30.0)
    choice = ask(server, logit_bias=tokens, max_tokens=200, tool_choice="auto", parallel_tool_calls=False)["choices"][0]
    if choice["finish_reason"] == "tool_calls":
        check_call(choice["message"]["tool_calls"][0])
    else:  # the first token alone does not make a call where the marker has several
        assert len(family.tokens) < 4


def test_calls_and_their_results_can_be_sent_back(server: RunningServer) -> None:
    message = ask(server, tool_choice="required", parallel_tool_calls=False)["choices"][0]["message"]
    call = message["tool_calls"][0]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny-and-warm"}
    answer = ask(server, messages=[*BODY["messages"], message, result], max_tokens=4)
    assert answer["choices"][0]["finish_reason"] == "length"


def test_the_tools_are_in_the_prompt_unless_no_call_is_wanted(server: RunningServer) -> None:
    def prompt_tokens(**fields: Any) -> int:
        return int(ask(server, max_tokens=1, **fields)["usage"]["prompt_tokens"])

    without = prompt_tokens(tools=[])
    assert prompt_tokens() > without + 20
    assert prompt_tokens(tool_choice="none") == without


def test_a_cut_off_call_has_the_finish_reason_length(server: RunningServer) -> None:
    for limit in (3, 14, 18):
        choice = ask(server, tool_choice="required", max_tokens=limit)["choices"][0]
        assert choice["finish_reason"] == "length"
