# /// script
# requires-python = ">=3.11"
# dependencies = ["instructor>=1.14", "openai>=2"]
# ///
"""instructor: answers as pydantic models, by each of its modes for this API."""

from __future__ import annotations

import instructor
from checks import KEY, QUESTION, Weather, run
from openai import OpenAI


def _create(url: str, model: str, mode: instructor.Mode) -> None:
    client = instructor.from_openai(OpenAI(base_url=url, api_key=KEY), mode=mode)
    weather = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        response_model=Weather,
        max_tokens=100,
        max_retries=0,
    )
    assert isinstance(weather, Weather)


def tools(url: str, model: str) -> None:
    _create(url, model, instructor.Mode.TOOLS)


def json_schema(url: str, model: str) -> None:
    _create(url, model, instructor.Mode.JSON_SCHEMA)


def partial_stream(url: str, model: str) -> None:
    client = instructor.from_openai(OpenAI(base_url=url, api_key=KEY), mode=instructor.Mode.JSON_SCHEMA)
    parts = client.chat.completions.create_partial(
        model=model, messages=[{"role": "user", "content": QUESTION}], response_model=Weather, max_tokens=100
    )
    last = list(parts)[-1]
    Weather.model_validate(last.model_dump())


if __name__ == "__main__":
    run(tools, json_schema, partial_stream)
