# /// script
# requires-python = ">=3.11"
# dependencies = ["pydantic-ai-slim[openai]>=1"]
# ///
"""pydantic-ai: an agent with text, structured output and a tool."""

from __future__ import annotations

from checks import KEY, QUESTION, Weather, run
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

SETTINGS = {"max_tokens": 100, "temperature": 0.0}


def chat_model(url: str, model: str) -> OpenAIChatModel:
    return OpenAIChatModel(model, provider=OpenAIProvider(base_url=url, api_key=KEY))


def basic(url: str, model: str) -> None:
    result = Agent(chat_model(url, model), instructions="Be brief.").run_sync(QUESTION, model_settings=SETTINGS)
    assert result.output
    assert result.usage.output_tokens > 0


async def streaming(url: str, model: str) -> None:
    agent = Agent(chat_model(url, model))
    whole = (await agent.run(QUESTION, model_settings=SETTINGS)).output
    async with agent.run_stream(QUESTION, model_settings=SETTINGS) as stream:
        assert [text async for text in stream.stream_text()][-1] == whole


def structured(url: str, model: str) -> None:
    for output in (ToolOutput(Weather), NativeOutput(Weather)):
        agent = Agent(chat_model(url, model), output_type=output, retries=0)
        assert isinstance(agent.run_sync(QUESTION, model_settings=SETTINGS).output, Weather)


if __name__ == "__main__":
    run(basic, streaming, structured)
