# /// script
# requires-python = ">=3.11"
# dependencies = ["openai-agents>=0.6"]
# ///
"""The OpenAI Agents SDK, by chat completions and by responses."""

from __future__ import annotations

from typing import Literal

from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from checks import KEY, QUESTION, Weather, run
from openai import AsyncOpenAI

set_tracing_disabled(True)
# The SDK takes a response that was cut off for an error, so the answer ends with a sentence.
ONE_SENTENCE = ModelSettings(max_tokens=100, temperature=0, extra_body={"stop": ["."]})
reports: list[str] = []


@function_tool
def report_weather(sky: Literal["clear", "cloudy", "rain"]) -> str:
    """Report the weather."""
    reports.append(sky)
    return "bring an umbrella"


def models(url: str, model: str) -> list[Model]:
    client = AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)
    return [OpenAIChatCompletionsModel(model, client), OpenAIResponsesModel(model, client)]


async def basic(url: str, model: str) -> None:
    for each in models(url, model):
        agent = Agent("helper", "Be brief.", model=each, model_settings=ONE_SENTENCE)
        assert (await Runner.run(agent, QUESTION)).final_output


async def streaming(url: str, model: str) -> None:
    for each in models(url, model):
        agent = Agent("helper", "Be brief.", model=each, model_settings=ONE_SENTENCE)
        result = Runner.run_streamed(agent, QUESTION)
        events = [event async for event in result.stream_events()]
        assert any(event.type == "raw_response_event" for event in events)
        assert result.final_output


async def structured(url: str, model: str) -> None:
    for each in models(url, model):
        settings = ModelSettings(max_tokens=100)
        agent = Agent("helper", "Be brief.", model=each, output_type=Weather, model_settings=settings)
        assert isinstance((await Runner.run(agent, QUESTION)).final_output, Weather)


async def tools(url: str, model: str) -> None:
    settings = ModelSettings(max_tokens=100, tool_choice="required")
    for number, each in enumerate(models(url, model), start=1):
        agent = Agent(
            "helper",
            "Be brief.",
            model=each,
            tools=[report_weather],
            tool_use_behavior="stop_on_first_tool",
            model_settings=settings,
        )
        assert (await Runner.run(agent, QUESTION)).final_output == "bring an umbrella"
        assert len(reports) >= number


if __name__ == "__main__":
    run(basic, streaming, structured, tools)
