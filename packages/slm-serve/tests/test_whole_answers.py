"""Bodies with whole texts: encoded in parts, and on a thread if they are large."""

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_serve import Delta
from slm_serve.http.whole_answers import LARGE_ANSWER, ChoicesResponse, GeneratedText, whole_answer

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), st.lists(VALUES, max_size=4))
def test_choices_encoded_one_by_one_are_the_same_body(others: dict[str, Any], choices: list[Any]) -> None:
    body = others | {"choices": choices}
    response = ChoicesResponse(body)
    assert json.loads(response.body) == body
    assert response.headers["content-length"] == str(len(response.body))
    assert json.loads(ChoicesResponse(others).body) == others


@pytest.mark.parametrize(
    ("tokens", "top", "on_thread"),
    [
        (LARGE_ANSWER // 2, 0, False),
        (LARGE_ANSWER, 0, True),
        (LARGE_ANSWER // 10, 5, False),
        (LARGE_ANSWER // 5, 5, True),
    ],
)
def test_a_large_body_is_made_on_a_thread(tokens: int, top: int, on_thread: bool) -> None:
    logprobs: Any = (SimpleNamespace(top=[None] * top),) if top else ()
    text, threads = GeneratedText(Delta(logprobs=logprobs), "", tokens), []

    def build_body(texts: list[GeneratedText]) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return {"choices": [{"tokens": text.tokens} for text in texts]}

    response = asyncio.run(whole_answer([text, GeneratedText(tokens=1)], build_body))
    assert json.loads(bytes(response.body)) == {"choices": [{"tokens": tokens}, {"tokens": 1}]}
    assert (threads[0] is not threading.main_thread()) is on_thread
