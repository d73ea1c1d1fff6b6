"""The playground with a real server, in a browser."""

import pytest

from slm_testing.serve.browser import Browser, needs_browser
from slm_testing.serve.running_server import RunningServer

COMPLETION_FINISHED = "document.querySelector('#status').innerText === 'Finished.'"
CHAT_FINISHED = "document.querySelector('#chat-status').innerText === 'Finished.'"
ANSWERS = ".answer .text"
pytestmark = needs_browser


@pytest.fixture
def real_page(browser: Browser, server: RunningServer) -> Browser:
    """The playground of a real server, with empty local storage."""
    browser.call("Storage.clearDataForOrigin", origin=server.url, storageTypes="local_storage")
    browser.resize(1280, 800)
    browser.open(f"{server.url}/")
    browser.wait("document.querySelector('#model').value")
    return browser


def test_with_the_real_server_base_and_adapter_stream_side_by_side(real_page: Browser, server: RunningServer) -> None:
    real_page.set("model", "moth")
    real_page.click("[name=compare]")
    real_page.set("max_new_tokens", "24")
    real_page.generate("Once upon a time there was a")
    real_page.wait(COMPLETION_FINISHED)
    seed = int(real_page("document.body.innerText.match(/seed\\s+(\\d+)/)[1]"))
    settings = {"prompt": "Once upon a time there was a", "max_new_tokens": 24, "temperature": 0.8, "seed": seed}
    texts = [server.post("/generate", settings | {"adapter": name}).json()["text"] for name in ("moth", "red")]
    shown = real_page("document.querySelector('main').textContent")
    assert all(text in shown for text in texts)
    assert texts[0] != texts[1]
    assert real_page.console_errors == []


def say(page: Browser, *messages: str) -> None:
    """Send messages of a chat, each after the answer to the previous one."""
    for message in messages:
        page.send(message)
        page.wait(CHAT_FINISHED)


def test_a_chat_remembers_its_turns(real_page: Browser, server: RunningServer) -> None:
    real_page.click("[name=mode][value=chat]")
    for name, value in {"model": "red", "max_new_tokens": "12", "seed": "3"}.items():
        real_page.set(name, value)
    say(real_page, "Tell me about a fox.", "And then?")
    first, second = (text.strip() for text in real_page.texts(ANSWERS))
    messages = [
        {"role": "user", "content": "Tell me about a fox."},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And then?"},
    ]
    settings = {"model": "red", "max_tokens": 12, "seed": 3, "temperature": 0.8, "messages": messages}
    response = server.post("/v1/chat/completions", settings).json()
    assert response["choices"][0]["message"]["content"].strip() == second
    tokens = server.post("/tokenize", {"model": "red", "messages": messages}).json()["count"]
    assert tokens == response["usage"]["prompt_tokens"]
    assert real_page.console_errors == []


def test_a_greedy_answer_in_two_parts_is_that_in_one(real_page: Browser) -> None:
    real_page.click("[name=mode][value=chat]")
    for name, value in {"model": "red", "max_new_tokens": "10", "temperature": "0"}.items():
        real_page.set(name, value)
    say(real_page, "Tell me about a fox.")
    real_page.click(".answer .actions-row button:nth-child(2)")
    real_page.wait(f"{CHAT_FINISHED} && document.querySelector('dd').innerText === '20'")
    in_two_parts = real_page.text(ANSWERS)
    real_page.set("max_new_tokens", "20")
    real_page.click(".answer .actions-row button:first-child")
    real_page.wait(CHAT_FINISHED)
    assert real_page.text(ANSWERS) == in_two_parts
