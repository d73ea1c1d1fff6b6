"""Formats of the answer, over HTTP: each way to ask for one, what is refused, and what is unaffected."""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from slm_kv import Grammar
from slm_testing.serve.running_server import RunningServer

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
GRAMMAR = 'start: "a"+ "b"'


def is_person(text: str) -> bool:
    jsonschema.validate(json.loads(text), PERSON)
    return True


def one_of(*choices: str) -> Callable[[str], bool]:
    return lambda text: text in choices


def matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


FORMATS: list[tuple[dict[str, Any], Callable[[str], bool]]] = [
    ({"response_format": FORMAT}, is_person),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": PERSON}}}, is_person),
    ({"response_format": {"type": "json_object", "schema": PERSON}}, is_person),
    ({"response_format": {"type": "json_schema", "schema": PERSON}}, is_person),
    ({"guided_json": PERSON}, is_person),
    ({"guided_json": json.dumps(PERSON)}, is_person),
    ({"structured_outputs": {"json": PERSON}}, is_person),
    ({"guided_regex": "[ab]{3}c"}, matches("[ab]{3}c")),
    ({"structured_outputs": {"regex": "[ab]{3}c"}}, matches("[ab]{3}c")),
    ({"guided_choice": ["yes", "no"]}, one_of("yes", "no")),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, one_of("yes", "no")),
    ({"guided_grammar": 'root ::= "yes" | "no"'}, one_of("yes", "no")),
    ({"structured_outputs": {"grammar": 'start: "a" "b"'}}, one_of("ab")),
]
IDS = [" ".join([*fields, *fields.get("structured_outputs", {})]) for fields, _ in FORMATS]


def body(path: str, **fields: Any) -> dict[str, Any]:
    prompt = {"messages": [{"role": "user", "content": "Hello"}]} if path == CHAT else {"prompt": "Once upon a time"}
    return {**prompt, "max_tokens": 100, "temperature": 0, **fields}


def text_of(choice: dict[str, Any]) -> str:
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def streamed_text(server: RunningServer, path: str, request: dict[str, Any]) -> tuple[str, str]:
    text, reason = "", ""
    with server.stream(path, request | {"stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                choice = json.loads(line[6:])["choices"][0]
                text += choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
                reason = choice["finish_reason"] or reason
    return text, reason


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
@pytest.mark.parametrize(("fields", "is_valid"), FORMATS, ids=IDS)
def test_an_answer_has_the_format_asked_for(
    server: RunningServer, path: str, fields: dict[str, Any], is_valid: Callable[[str], bool]
) -> None:
    response = server.post(path, body(path, **fields))
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    assert is_valid(text_of(choice))
    assert choice["finish_reason"] == "stop"
    assert streamed_text(server, path, body(path, **fields)) == (text_of(choice), "stop")


@pytest.mark.parametrize("fields", [{"response_format": {"type": "json_object"}}, {"guided_json_object": True}])
def test_any_json_object(server: RunningServer, fields: dict[str, Any]) -> None:
    choices = server.post(CHAT, body(CHAT, n=4, temperature=1, seed=3, **fields)).json()["choices"]
    assert len(choices) == 4
    for choice in choices:
        assert text_of(choice).startswith("{")
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(text_of(choice)), dict)


def test_several_texts_with_adapters_logprobs_and_usage(server: RunningServer) -> None:
    request = body(CHAT, model="red", n=3, temperature=1, seed=7, logprobs=True, top_logprobs=2, response_format=FORMAT)
    answer = server.post(CHAT, request).json()
    assert all(is_person(text_of(choice)) for choice in answer["choices"])
    tokens = [token for choice in answer["choices"] for token in choice["logprobs"]["content"]]
    assert len(tokens) == answer["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("fields", "param", "part"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"uniqueItems": True}}}},
            "response_format",
            "keywords that are not supported: uniqueItems",
        ),
        ({"guided_json": {"type": "array", "contains": {}}}, "guided_json", "not supported: contains"),
        ({"guided_json": "{"}, "guided_json", "is not JSON"),
        ({"guided_regex": "(a"}, "guided_regex", "unclosed group"),
        ({"structured_outputs": {"regex": "a(?=b)"}}, "structured_outputs.regex", "look-ahead"),
        ({"structured_outputs": {"grammar": "start: b"}}, "structured_outputs.grammar", "unknown name"),
        ({"guided_choice": ["a", ""]}, "guided_choice.1", "must not be empty"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "exclude each other"),
        ({"response_format": FORMAT, "guided_regex": "a"}, "guided_regex", "exclude each other"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema is missing"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}, None, "schema"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "use tools"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "100"),
        ({"logit_bias": {"five": 1}}, "logit_bias", ""),
        ({"logit_bias": {"99999": 1}}, None, "outside the vocabulary"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETION])
def test_what_cannot_be_followed_is_refused_by_name(
    server: RunningServer, path: str, fields: dict[str, Any], param: str | None, part: str
) -> None:
    response = server.post(path, body(path, **fields))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert part in error["message"]
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"].startswith(param)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": None},
        {"response_format": {"type": "text"}},
        {"guided_json": None, "guided_regex": "", "guided_choice": [], "structured_outputs": {}},
        {"logit_bias": {}},
        {"logit_bias": None},
    ],
)
def test_fields_that_ask_for_nothing_change_nothing(server: RunningServer, fields: dict[str, Any]) -> None:
    plain = server.post(COMPLETION, body(COMPLETION, max_tokens=8)).json()["choices"]
    assert server.post(COMPLETION, body(COMPLETION, max_tokens=8, **fields)).json()["choices"] == plain


def test_a_bias_forces_and_bans_tokens(server: RunningServer) -> None:
    ids = server.post("/tokenize", {"prompt": " cat", "add_special_tokens": False}).json()["tokens"]
    forced = server.post(COMPLETION, body(COMPLETION, max_tokens=3, logit_bias={str(ids[0]): 100})).json()
    assert len(set(forced["choices"][0]["text"].split())) == 1
    first = server.post(COMPLETION, body(COMPLETION, max_tokens=1, logprobs=0)).json()["choices"][0]["text"]
    banned = server.post("/tokenize", {"prompt": first, "add_special_tokens": False}).json()["tokens"]
    other = server.post(COMPLETION, body(COMPLETION, max_tokens=1, logit_bias={str(banned[0]): -100})).json()
    assert other["choices"][0]["text"] != first


def test_a_bias_that_leaves_no_token_is_an_error_of_the_request(server: RunningServer) -> None:
    ids = server.post("/tokenize", {"prompt": "q", "add_special_tokens": False}).json()["tokens"]
    response = server.post(
        COMPLETION, body(COMPLETION, guided_regex="q", logit_bias=dict.fromkeys(map(str, ids), -100))
    )
    assert response.status_code == 400
    assert "no token may come next" in response.json()["error"]["message"]
    assert server.get("/health/ready").status_code == 200


def test_grammars_are_compiled_off_the_event_loop(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Grammar] = []
    backend = server.service.backend
    compile_grammar = backend.compile_grammar

    def record(grammar: Grammar) -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        compiled.append(grammar)
        compile_grammar(grammar)

    monkeypatch.setattr(backend, "compile_grammar", record)
    assert server.post(COMPLETION, body(COMPLETION, guided_regex="ab?")).status_code == 200
    assert compiled == [Grammar("regex", "ab?")]
