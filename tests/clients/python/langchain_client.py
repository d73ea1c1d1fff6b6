# /// script
# requires-python = ">=3.11"
# dependencies = ["langchain-openai>=1"]
# ///
"""LangChain's ChatOpenAI and OpenAIEmbeddings."""

from __future__ import annotations

from checks import KEY, QUESTION, Weather, run
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings


def chat(url: str, model: str) -> ChatOpenAI:
    return ChatOpenAI(base_url=url, api_key=KEY, model=model, max_tokens=100, temperature=0, max_retries=0)


def basic(url: str, model: str) -> None:
    answer = chat(url, model).invoke([("system", "Be brief."), ("human", QUESTION)])
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["model_name"] == model


def streaming(url: str, model: str) -> None:
    whole = chat(url, model).invoke(QUESTION).content
    assert "".join(chunk.content for chunk in chat(url, model).stream(QUESTION)) == whole


def structured(url: str, model: str) -> None:
    for method in ("json_schema", "function_calling"):
        assert isinstance(chat(url, model).with_structured_output(Weather, method=method).invoke(QUESTION), Weather)


def tools(url: str, model: str) -> None:
    bound = chat(url, model).bind_tools([Weather], tool_choice="any")
    answer = bound.invoke(QUESTION)
    assert answer.tool_calls[0]["name"] == "Weather"
    Weather.model_validate(answer.tool_calls[0]["args"])
    streamed = None
    for chunk in bound.stream(QUESTION):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.tool_calls[0]["args"] == answer.tool_calls[0]["args"]
    result = ToolMessage("bring an umbrella", tool_call_id=answer.tool_calls[0]["id"])
    assert chat(url, model).invoke([HumanMessage(QUESTION), answer, result]).usage_metadata["output_tokens"] > 0


def embeddings(url: str, model: str) -> None:
    client = OpenAIEmbeddings(base_url=url, api_key=KEY, model=model, check_embedding_ctx_length=False)
    first, second = client.embed_documents(["The sea is blue.", "A red fox."])
    assert len(first) == len(second)
    assert first != second


if __name__ == "__main__":
    run(basic, streaming, structured, tools, embeddings)
