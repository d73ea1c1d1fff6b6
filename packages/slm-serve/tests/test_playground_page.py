"""What both modes of the playground share: models, settings, errors, and the layout, in a browser."""

import threading
from contextlib import closing
from pathlib import Path

import pytest

from slm_testing.serve.browser import Browser, needs_browser
from slm_testing.serve.running_server import running_server
from slm_testing.serve.stub_server import BASE_AND_ADAPTER, StubServer, model_card

FINISHED = "document.querySelector('#status').innerText === 'Finished.'"
FAILED = "document.querySelector('article .error:not([hidden])') !== null"
MODELS_LOADED = "document.querySelector('#model').value"
pytestmark = needs_browser


def test_the_connection_to_the_browser_sends_no_pings(browser: Browser) -> None:
    """Pings draw from Python's global random numbers, at any time during the tests that follow."""
    threads = [thread for thread in threading.enumerate() if "keepalive" in thread.name]
    assert browser.socket.ping_interval is None
    assert not threads


def test_models_served_by_transformers_are_marked(browser: Browser) -> None:
    cards = [card | {"backend": "transformers"} for card in BASE_AND_ADAPTER]
    with closing(StubServer(cards)) as stub:
        browser.open(stub.address)
        browser.wait(MODELS_LOADED)
        labels = ["sample (base, transformers)", "stories-lora (adapter of sample, transformers)"]
        assert browser.texts("#model option") == labels


def test_the_models_are_in_the_picker_and_the_default_is_chosen(page: Browser) -> None:
    assert page.texts("#model option") == ["sample (base)", "stories-lora (adapter of sample)"]
    assert page("document.querySelector('#model').value") == "stories-lora"
    assert page("document.querySelector('[name=other]').value") == "sample"


def test_every_control_has_an_accessible_name(chat: Browser) -> None:
    chat.send("Hello")
    chat.wait("document.querySelector('#chat-status').innerText === 'Finished.'")
    controls = "[...document.querySelectorAll('input, select, textarea, button')]"
    assert chat(f"{controls}.filter(c => !c.labels?.length && !c.ariaLabel && !c.textContent).length") == 0


def test_the_second_picker_changes_when_its_model_is_picked_in_the_first(page: Browser) -> None:
    page.click("[name=compare]")
    page.set("model", "sample")
    assert page("document.querySelector('[name=other]').value") == "stories-lora"


def test_comparing_is_not_offered_with_a_single_model(page: Browser, stub: StubServer) -> None:
    page.click("[name=compare]")
    stub.models = [model_card("sample", default=True)]
    page.open(stub.address)
    page.wait("document.querySelector('#model').value === 'sample'")
    assert page("document.querySelector('#compare').hidden")
    page.generate("Hello")
    page.wait(FINISHED)
    assert [body["adapter"] for body in stub.bodies] == ["sample"]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("invalid", "Top p: Input should be greater than 0."),
        ("long", "The prompt has 600 tokens and the model takes 512."),
        ("busy", "The server is busy: try again in 7 seconds."),
        ("proxy", "The server answered with status 502."),
        ("status 401", "The server requires a password: reload the page to enter it."),
        ("status 404", "The generate request got 404."),
        ("status 504", "The generate request got 504."),
        ("failing", "The engine has stopped."),
        ("ending", "The connection was lost before the text was complete."),
        ("cut", "The connection was lost before the text was complete."),
    ],
)
def test_an_error_is_a_sentence_before_the_text_and_in_the_status_line(page: Browser, prompt: str, words: str) -> None:
    page.generate(prompt)
    page.wait(FAILED)
    page.wait("document.querySelector('#stop').hidden")
    assert page.texts("article .error") == [words]
    assert page.text("#status") == words
    assert page("document.querySelector('article .error + .text') !== null")
    assert [error for error in page.console_errors if "Failed to load resource" not in error] == []


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("status 400", "The v1/chat/completions request got 400."),
        ("status 404", "The v1/chat/completions request got 404."),
        ("status 429", "The server is busy: try again in a moment."),
        ("status 503", "The v1/chat/completions request got 503."),
        ("failing", "The engine has stopped."),
        ("cut", "The connection was lost before the text was complete."),
    ],
)
def test_an_error_of_a_chat_is_shown_in_the_same_way(chat: Browser, message: str, words: str) -> None:
    chat.send(message)
    chat.wait(FAILED)
    chat.wait("document.querySelector('#stop-chat').hidden")
    assert chat.texts("article .error:not([hidden])") == [words]
    assert chat.text("#chat-status") == words


def test_an_unreachable_server_is_reported(page: Browser, stub: StubServer) -> None:
    stub.close()
    page.generate("Hello")
    page.wait(FAILED)
    assert page.text("article .error").startswith("The server cannot be reached")
    assert page.text("#status").startswith("The server cannot be reached")


def test_the_page_waits_until_the_model_is_loaded(page: Browser, stub: StubServer) -> None:
    stub.models = []
    page.open(stub.address)
    page.wait("!document.querySelector('#notice').hidden")
    assert page.text("#notice").startswith("The model is still loading.")
    assert page.text("#status") == "The model is still loading."
    stub.models = BASE_AND_ADAPTER
    page.wait("document.querySelector('#notice').hidden")
    assert page.text("#status") == ""
    page.generate("Hello")
    page.wait(FINISHED)


def test_a_model_that_is_no_longer_served_leaves_the_picker(page: Browser, stub: StubServer) -> None:
    stub.models = [model_card("sample", default=True)]
    page.generate("status 404")
    page.wait("document.querySelectorAll('#model option').length === 1")
    assert page.text("#status") == "The generate request got 404."
    page.generate("Hello")
    page.wait(FINISHED)
    assert stub.bodies[-1]["adapter"] == "sample"


def test_an_adapter_that_was_added_is_in_the_picker_when_the_user_comes_back(page: Browser, stub: StubServer) -> None:
    page.set("model", "sample")
    stub.models = [*BASE_AND_ADAPTER, model_card("new", parent="sample")]
    page("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait("document.querySelectorAll('#model option').length === 3")
    assert page("document.querySelector('#model').value") == "sample"


def test_new_tokens_are_limited_to_what_fits(page: Browser, stub: StubServer) -> None:
    slider = "document.querySelector('#max_new_tokens')"
    page.wait(f"{slider}.max === '512'")
    page.set("max_new_tokens", "500")
    page.set("prompt", "word " * 100)
    page.wait(f"{slider}.max === '412'")
    assert page(f"{slider}.value") == page.text("output[for=max_new_tokens]") == "412"
    assert page.text("#max_new_tokens-hint") == "100 of 512 tokens are used."
    page.click("#generate")
    page.wait(FINISHED)
    assert stub.bodies[0]["max_new_tokens"] == 412
    page.set("prompt", "word " * 600)
    page.wait("document.querySelector('#max_new_tokens-hint').className.includes('problem')")
    assert page.text("#max_new_tokens-hint") == "600 tokens do not fit into the context of 512."
    page.set("prompt", "")
    page.wait(f"{slider}.value === '500'")


def test_the_limit_of_a_chat_counts_its_history(chat: Browser) -> None:
    chat.send(" ".join(["word"] * 100))
    chat.wait("document.querySelector('#chat-status').innerText === 'Finished.'")
    chat.set("message", "more " * 50)
    # The stub's answer has four words and those of the question.
    chat.wait("document.querySelector('#max_new_tokens').max === String(512 - 100 - 104 - 50)")


def test_prompt_and_settings_are_restored_at_the_next_visit(page: Browser, stub: StubServer) -> None:
    page.set("prompt", "Kept")
    page.set("temperature", "1.5")
    page.set("use_cache", False)
    page.set("model", "sample")
    page.open(stub.address)
    page.wait(MODELS_LOADED)
    values = page("['prompt', 'temperature', 'model'].map(n => document.querySelector(`[name=${n}]`).value)")
    assert values == ["Kept", "1.5", "sample"]
    assert page.text("output[for=temperature]") == "1.5"
    assert not page("document.querySelector('[name=use_cache]').checked")


@pytest.mark.parametrize("mode", ["completion", "chat"])
@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, stub: StubServer, width: int, mode: str) -> None:
    stub.models, page = [model_card("a-model-with-a-name-" * 4, default=True), *BASE_AND_ADAPTER[:1]], browser
    page.resize(width, 740, phone=width < 600)
    page.open(stub.address)
    page.wait(MODELS_LOADED)
    page.click("[name=compare]")
    page.click(f"[name=mode][value={mode}]")
    if mode == "chat":
        page.send("W" * 300)
        page.wait("document.querySelector('#chat-status').innerText === 'Finished.'")
        page.click("#export summary")
    else:
        page.generate("W" * 300)
        page.wait(FINISHED)
    assert page("document.documentElement.scrollWidth <= innerWidth")
    assert page("innerWidth") == width
    assert page.console_errors == []


def test_the_browser_sends_the_api_key_as_a_password(browser: Browser, tiny_model: Path) -> None:
    with running_server(model_path=str(tiny_model), api_key="a key") as server:
        browser.open(server.url.replace("//", "//anyone:a%20key@"))
        browser.wait(MODELS_LOADED)
        browser.open(server.url)
        browser.wait(MODELS_LOADED)
        browser.generate("Hello")
        browser.wait(FINISHED)
        assert browser.console_errors == []


def test_everything_is_loaded_from_the_server_of_the_page(chat: Browser, stub: StubServer) -> None:
    chat.send("Hello")
    chat.wait("document.querySelector('#chat-status').innerText === 'Finished.'")
    loaded = chat("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(loaded) > 10
    assert [address for address in loaded if not address.startswith(stub.address)] == []
