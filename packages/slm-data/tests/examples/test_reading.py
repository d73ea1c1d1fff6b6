"""Conversations, pairs and instructions from the rows of datasets."""

from typing import Any

import pytest

from slm_data.errors import DataError
from slm_data.examples.columns import read_columns
from slm_data.examples.data_formats import DataFormat
from slm_data.examples.reading import columns_of, detect_format, read_examples
from slm_data.examples.types import Conversation, Example, Message, Pair

USER, ANSWER = Message("user", "Hi"), Message("assistant", "Yo", is_completion=True)


def read(row: Any, data_format: DataFormat, *columns: str) -> Example:
    (example,) = read_examples([(row, "f.jsonl, line 7")], data_format, read_columns(columns))
    return example


@pytest.mark.parametrize(
    ("row", "data_format"),
    [
        ({"messages": []}, "messages"),
        ({"id": 1, "conversations": []}, "messages"),
        ({"prompt": "a", "completion": "b"}, "prompt_completion"),
        ({"instruction": "a", "output": "b"}, "instruction"),
        ({"instruction": "a", "input": "", "response": "b"}, "instruction"),
        ({"prompt": "a", "answer": "b"}, "text"),
        ({"text": "a"}, "text"),
        ("a text", "text"),
    ],
)
def test_the_columns_of_the_first_row_decide_the_format(row: Any, data_format: DataFormat) -> None:
    assert detect_format(row, read_columns([]), text_column=None) == data_format


def test_named_columns_decide_the_format_too_and_a_text_column_means_text() -> None:
    row = {"question": "a", "answer": "b"}
    columns = read_columns(["prompt=question,completion=answer"])
    assert detect_format(row, columns, text_column=None) == "prompt_completion"
    assert detect_format({"messages": [], "body": "a"}, columns, text_column="body") == "text"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}],
        [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}],
        [{"role": "USER", "content": [{"type": "text", "text": "H"}, "i"]}, {"role": "model", "content": ["Yo"]}],
        '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo", "tool_calls": null}]',
    ],
)
def test_messages_are_read_in_every_common_form(messages: Any) -> None:
    assert read({"conversations": messages}, "messages") == Conversation((USER, ANSWER), "f.jsonl, line 7")


def test_a_system_column_comes_first_unless_the_messages_have_one_of_their_own() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    conversation = read({"messages": messages, "system": "Be brief."}, "messages")
    assert conversation == Conversation((Message("system", "Be brief."), USER), "f.jsonl, line 7")
    own = [{"role": "system", "content": "Own."}, *messages]
    assert read({"messages": own, "system": "Be brief."}, "messages") == read({"messages": own}, "messages")


def test_a_message_of_weight_0_and_an_empty_answer_are_not_learned() -> None:
    answers = [{"role": "assistant", "content": "Yo", "weight": 0}, {"role": "assistant", "content": ""}]
    conversation = read({"messages": answers}, "messages")
    assert isinstance(conversation, Conversation)
    assert not any(message.is_learned for message in conversation.messages)


def test_an_instruction_is_a_question_and_its_answer() -> None:
    row = {"instruction": "Add.", "input": "1 + 1", "output": "2"}
    messages = (Message("user", "Add.\n\n1 + 1"), Message("assistant", "2", is_completion=True))
    assert read(row, "instruction") == Conversation(messages, "f.jsonl, line 7")
    assert read(row | {"input": None}, "instruction") == Conversation(
        (Message("user", "Add."), messages[1]), "f.jsonl, line 7"
    )


def test_a_pair_is_kept_as_it_is_and_lists_of_messages_become_a_conversation() -> None:
    assert read(
        {"question": "Q", "data": {"a": " A"}}, "prompt_completion", "prompt=question", "completion=data.a"
    ) == (Pair("Q", " A"))
    shot = {"role": "assistant", "content": "An example."}
    prompt = [{"role": "user", "content": "Hi"}, shot]
    conversation = read({"prompt": prompt, "completion": [{"role": "assistant", "content": "Yo"}]}, "prompt_completion")
    assert conversation == Conversation((USER, Message("assistant", "An example."), ANSWER), "f.jsonl, line 7")


@pytest.mark.parametrize(
    ("row", "data_format", "reason"),
    [
        ({"messages": [{"role": "narrator", "content": "x"}]}, "messages", "unknown role 'narrator'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "tools are not supported"),
        ({"messages": [{"from": "observation", "value": "x"}]}, "messages", "tools are not supported"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages", "calls tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "type image_url"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages", "the content dict"),
        ({"messages": [{"role": "user"}]}, "messages", "the content null"),
        ({"messages": [{"content": "x"}]}, "messages", "no role"),
        ({"messages": ["x"]}, "messages", "message 1: str 'x' is not an object"),
        ({"messages": "hello"}, "messages", "is not a list of messages"),
        ({"messages": "[{]"}, "messages", "broken JSON"),
        ({"messages": [], "tools": [{"name": "f"}]}, "messages", "has tools"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "surrogate"),
        ({"text": "x"}, "messages", "no column 'messages' or 'conversations' or 'conversation'"),
        ({"prompt": "x"}, "prompt_completion", "--columns completion=COLUMN (columns: prompt)"),
        ({"prompt": "x", "completion": 3}, "prompt_completion", "not str and int"),
        ({"prompt": "x", "completion": None}, "prompt_completion", "not str and NoneType"),
        ({"instruction": ["x"], "output": 3}, "instruction", "the content int 3"),
        ("a text", "messages", "has no columns"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(row: Any, data_format: DataFormat, reason: str) -> None:
    with pytest.raises(DataError) as error:
        read(row, data_format)
    assert "f.jsonl, line 7" in str(error.value)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("word", "reason"),
    [("prompt", "not of the form"), ("promt=a", "did you mean prompt?"), ("prompt=", "not of the form")],
)
def test_broken_names_of_columns_are_refused(word: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason.replace("?", r"\?")):
        read_columns([word])


def test_only_the_columns_that_are_needed_are_read() -> None:
    available = ["id", "messages", "system", "image", "data"]
    assert columns_of("messages", read_columns([]), available) == ["messages", "system"]
    assert columns_of("prompt_completion", read_columns(["prompt=data.q", "completion=id"]), available) == [
        "id",
        "data",
    ]
