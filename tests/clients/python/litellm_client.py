# /// script
# requires-python = ">=3.11"
# dependencies = ["litellm>=1.80"]
# ///
"""litellm, as a library, by its providers ``openai`` and ``hosted_vllm``."""

from __future__ import annotations

import json

import litellm
from checks import KEY, QUESTION, TOOL, Weather, run

MESSAGES = [{"role": "user", "content": QUESTION}]
PROVIDERS = ("openai", "hosted_vllm")


def _options(url: str, model: str, provider: str) -> dict[str, object]:
    return {"model": f"{provider}/{model}", "api_base": url, "api_key": KEY, "messages": MESSAGES, "max_tokens": 80}


def basic(url: str, model: str) -> None:
    for provider in PROVIDERS:
        answer = litellm.completion(**_options(url, model, provider), temperature=0)
        assert answer.choices[0].message.content
        assert answer.usage.completion_tokens > 0


def streaming(url: str, model: str) -> None:
    for provider in PROVIDERS:
        whole = litellm.completion(**_options(url, model, provider), temperature=0).choices[0].message.content
        chunks = litellm.completion(**_options(url, model, provider), temperature=0, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def structured(url: str, model: str) -> None:
    for provider in PROVIDERS:
        answer = litellm.completion(**_options(url, model, provider), response_format=Weather)
        Weather.model_validate_json(answer.choices[0].message.content)


def tools(url: str, model: str) -> None:
    for provider in PROVIDERS:
        answer = litellm.completion(**_options(url, model, provider), tools=[TOOL], tool_choice="required")
        Weather.model_validate(json.loads(answer.choices[0].message.tool_calls[0].function.arguments))


def errors(url: str, model: str) -> None:
    for provider in PROVIDERS:
        options = _options(url, model, provider) | {"messages": [{"role": "user", "content": "word " * 5000}]}
        try:
            litellm.completion(**options)
        except litellm.ContextWindowExceededError:
            continue
        raise AssertionError("a prompt that does not fit was accepted")


def embeddings(url: str, model: str) -> None:
    for provider in PROVIDERS:
        answer = litellm.embedding(
            model=f"{provider}/{model}", input=["The sea is blue."], api_base=url, api_key=KEY, encoding_format="float"
        )
        assert len(answer.data[0]["embedding"]) > 0


if __name__ == "__main__":
    run(basic, streaming, structured, tools, errors, embeddings)
