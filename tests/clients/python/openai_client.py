# /// script
# requires-python = ">=3.11"
# dependencies = ["openai>=2"]
# ///
"""The official Python client of OpenAI's API."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import openai
from checks import KEY, QUESTION, TOOL, Weather, run
from openai import OpenAI

MESSAGES = [{"role": "user", "content": QUESTION}]


def client(url: str) -> OpenAI:
    return OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=60)


def basic(url: str, model: str) -> None:
    answer = client(url).chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2, user="me"
    )
    assert answer.choices[0].message.content is not None
    assert answer.usage.completion_tokens == len(answer.choices[0].logprobs.content) == 8
    assert answer.choices[0].finish_reason == "length"
    text = client(url).completions.create(model=model, prompt="Once upon a time", max_tokens=4, logit_bias={"5": -100})
    assert text.usage.completion_tokens == 4
    assert model in [card.id for card in client(url).models.list()]


def streaming(url: str, model: str) -> None:
    options = {"model": model, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    whole = client(url).chat.completions.create(**options).choices[0].message.content
    chunks = list(client(url).chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].usage.completion_tokens == 8


def structured(url: str, model: str) -> None:
    parsed = client(url).chat.completions.parse(model=model, messages=MESSAGES, response_format=Weather, max_tokens=60)
    assert isinstance(parsed.choices[0].message.parsed, Weather)
    answer = client(url).chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=60, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert answer.choices[0].message.content in ("yes", "no")


def tools(url: str, model: str) -> None:
    options = {
        "model": model,
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 120,
    }
    answer = client(url).chat.completions.create(**options, messages=MESSAGES)
    call = answer.choices[0].message.tool_calls[0]
    assert answer.choices[0].finish_reason == "tool_calls"
    Weather.model_validate_json(call.function.arguments)
    with client(url).chat.completions.stream(**options, messages=MESSAGES) as stream:
        final = stream.get_final_completion()
    Weather.model_validate_json(final.choices[0].message.tool_calls[0].function.arguments)
    history = [
        *MESSAGES,
        answer.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"note": "bring an umbrella"})},
    ]
    follow_up = client(url).chat.completions.create(model=model, messages=history, tools=[TOOL], max_tokens=8)
    assert follow_up.usage.prompt_tokens > answer.usage.prompt_tokens


def responses(url: str, model: str) -> None:
    answer = client(url).responses.create(
        model=model, instructions="Be kind.", input=QUESTION, max_output_tokens=8, temperature=0
    )
    assert answer.usage.output_tokens == 8
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    options = {"model": model, "instructions": "Be kind.", "input": QUESTION, "max_output_tokens": 8, "temperature": 0}
    with client(url).responses.stream(**options) as stream:
        events = list(stream)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == answer.output_text
    parsed = client(url).responses.parse(model=model, input=QUESTION, text_format=Weather, max_output_tokens=60)
    assert isinstance(parsed.output_parsed, Weather)


def embeddings(url: str, model: str) -> None:
    answer = client(url).embeddings.create(model=model, input=["The sea is blue.", "A red fox."])
    for item in answer.data:
        assert math.isclose(math.hypot(*item.embedding), 1, rel_tol=1e-3)


def errors(url: str, model: str) -> None:
    messages = [{"role": "user", "content": "word " * 5000}]
    error = _error(openai.BadRequestError, lambda: client(url).chat.completions.create(model=model, messages=messages))
    assert error.code == "context_length_exceeded"
    assert "maximum context length is" in error.message
    error = _error(openai.NotFoundError, lambda: client(url).models.retrieve("unknown"))
    assert error.code == "model_not_found"


def _error(kind: type[openai.APIStatusError], request: Callable[[], object]) -> openai.APIStatusError:
    try:
        request()
    except kind as error:
        return error
    raise AssertionError("the request was accepted")


if __name__ == "__main__":
    run(basic, streaming, structured, tools, responses, embeddings, errors)
