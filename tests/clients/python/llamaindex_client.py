# /// script
# requires-python = ">=3.11"
# dependencies = ["llama-index-llms-openai-like>=0.5", "llama-index-embeddings-openai-like>=0.2"]
# ///
"""LlamaIndex's OpenAILike model and embeddings."""

from __future__ import annotations

from checks import KEY, QUESTION, Weather, run
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike


def language_model(url: str, model: str, **options: bool) -> OpenAILike:
    return OpenAILike(
        api_base=url,
        api_key=KEY,
        model=model,
        max_tokens=100,
        temperature=0,
        max_retries=0,
        is_chat_model=True,
        **options,
    )


def basic(url: str, model: str) -> None:
    answer = language_model(url, model).chat([ChatMessage(role="system", content="Be brief."), ChatMessage(QUESTION)])
    assert answer.message.content
    completion = OpenAILike(api_base=url, api_key=KEY, model=model, max_tokens=8).complete("Once upon a time")
    assert completion.text


def streaming(url: str, model: str) -> None:
    whole = language_model(url, model).chat([ChatMessage(QUESTION)]).message.content
    parts = [part.delta for part in language_model(url, model).stream_chat([ChatMessage(QUESTION)])]
    assert "".join(part or "" for part in parts) == whole


def structured(url: str, model: str) -> None:
    structured_model = language_model(url, model, is_function_calling_model=True).as_structured_llm(Weather)
    assert isinstance(structured_model.chat([ChatMessage(QUESTION)]).raw, Weather)


def tools(url: str, model: str) -> None:
    def weather(sky: str) -> str:
        """Report the weather."""
        return sky

    caller = language_model(url, model, is_function_calling_model=True)
    answer = caller.chat_with_tools(
        [FunctionTool.from_defaults(weather)], user_msg=QUESTION, tool_required=True, allow_parallel_tool_calls=False
    )
    calls = caller.get_tool_calls_from_response(answer, error_on_no_tool_call=False)
    # An endless string may reach the token limit; a call that was finished has the arguments of the function.
    assert all(call.tool_name == "weather" and set(call.tool_kwargs) <= {"sky"} for call in calls)


def embeddings(url: str, model: str) -> None:
    client = OpenAILikeEmbedding(api_base=url, api_key=KEY, model_name=model)
    assert len(client.get_text_embedding("The sea is blue.")) > 0


if __name__ == "__main__":
    run(basic, streaming, structured, tools, embeddings)
