"""The playground page: its files, and how it behaves in a browser."""

import re
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser

import pytest

from slm_testing.serve.browser import Browser, needs_browser
from slm_testing.serve.running_server import RunningServer
from slm_testing.serve.stub_server import BASE_AND_ADAPTER, PAGE_FOLDER, PIECES, StubServer, model_card
from slm_testing.serve.waiting import wait_until

FINISHED = "document.querySelector('#status').innerText === 'Finished.'"
FAILED = "document.querySelector('.error:not([hidden])') !== null"


class Tags(HTMLParser):
    """The tags of an HTML page with their attributes, and the text of its inline scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.inline += data


def test_the_page_refers_only_to_files_in_its_folder() -> None:
    tags = Tags((PAGE_FOLDER / "index.html").read_text()).tags
    addresses = {attributes[key] for _, attributes in tags for key in ("src", "href", "action") if key in attributes}
    assert addresses == {"static/icon.svg", "static/playground.css", "static/playground.js"}
    assert all((PAGE_FOLDER / str(address).removeprefix("static/")).is_file() for address in addresses)


def test_the_page_contains_no_inline_script_style_or_handler() -> None:
    tags = Tags((PAGE_FOLDER / "index.html").read_text())
    assert tags.inline.strip() == ""
    assert not [key for _, attributes in tags.tags for key in attributes if key == "style" or key.startswith("on")]


def test_no_file_of_the_page_contains_a_foreign_address_or_writes_markup() -> None:
    namespace = 'xmlns="http://www.w3.org/2000/svg"'
    for path in PAGE_FOLDER.iterdir():
        text = path.read_text().replace(namespace, "")
        assert not re.search(r"https?://|url\(|@import|innerHTML|outerHTML|insertAdjacentHTML|eval\(", text), path.name


@pytest.fixture
def stub() -> Iterator[StubServer]:
    stub = StubServer(BASE_AND_ADAPTER)
    yield stub
    stub.close()


@needs_browser
def test_models_served_by_transformers_are_marked(browser: Browser) -> None:
    cards = [card | {"backend": "transformers"} for card in BASE_AND_ADAPTER]
    with closing(StubServer(cards)) as stub:
        browser.open(stub.address)
        browser.wait("document.querySelector('#model').value")
        labels = ["sample (base, transformers)", "stories-lora (adapter of sample, transformers)"]
        assert browser.texts("#model option") == labels


@pytest.fixture
def page(browser: Browser, stub: StubServer) -> Browser:
    """The page with its models loaded. Its local storage is empty, because each stub has another port."""
    browser.resize(1280, 800)
    browser.open(stub.address)
    browser.wait("document.querySelector('#model').value")
    return browser


@needs_browser
def test_the_models_are_in_the_picker_and_the_default_is_chosen(page: Browser) -> None:
    assert page.texts("#model option") == ["sample (base)", "stories-lora (adapter of sample)"]
    assert page("document.querySelector('#model').value") == "stories-lora"
    assert page("document.querySelector('[name=other]').value") == "sample"
    assert page("document.querySelector('#max_new_tokens').max") == "512"


@needs_browser
def test_every_control_has_an_accessible_name(page: Browser) -> None:
    controls = "[...document.querySelectorAll('input, select, textarea, button')]"
    assert page(f"{controls}.filter(c => !c.labels.length && !c.ariaLabel && !c.innerText && !c.hidden).length") == 0


@needs_browser
def test_the_text_is_streamed_in_after_the_prompt_as_text(page: Browser) -> None:
    page.generate("Once <i>upon</i>")
    page.wait(FINISHED)
    assert page.text(".text") == "Once <i>upon</i>" + "stories-lora: " + "".join(PIECES)
    assert page.text(".text .prompt") == "Once <i>upon</i>"
    shown = dict(entry.split("\n") for entry in page.texts("dl div"))
    assert shown.pop("seed").isdigit()
    assert shown == {
        "tokens": "40",
        "tokens/s": "88.1",
        "seconds": "0.45",
        "prompt tokens": "5",
        "finish reason": "length",
    }
    assert page("document.querySelector('#stop').hidden")
    assert page.console_errors == []


@needs_browser
def test_the_request_contains_the_values_of_the_controls(page: Browser, stub: StubServer) -> None:
    numbers = {"max_new_tokens": 77, "temperature": 1.25, "top_k": 40, "top_p": 0.9, "min_p": 0.05}
    numbers |= {"repetition_penalty": 1.1, "seed": 12}
    for name, value in numbers.items():
        page.set(name, str(value))
    page.set("stop", "The end\n\n\\n\\n\n two")
    page.set("use_cache", False)
    page.set("model", "sample")
    page.generate("Hello")
    page.wait(FINISHED)
    other = {"prompt": "Hello", "stop": ["The end", "\n\n", " two"], "stream": True, "use_cache": False}
    assert stub.bodies == [{**numbers, **other, "adapter": "sample"}]
    page.click("button[type=reset]")
    page.wait("document.querySelector('[name=use_cache]').checked")
    page.click("#generate")
    wait_until(lambda: len(stub.bodies) == 2, 5)
    assert stub.bodies[1]["seed"] != 12
    defaults = {"max_new_tokens": 128, "temperature": 0.8, "top_k": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1}
    other = {"prompt": "Hello", "stop": None, "stream": True, "use_cache": True, "adapter": "sample"}
    assert stub.bodies[1] == {**defaults, **other, "seed": stub.bodies[1]["seed"]}


@needs_browser
def test_a_seed_that_is_not_an_integer_is_not_sent(page: Browser, stub: StubServer) -> None:
    page.set("seed", "1.5")
    page.generate("Hello")
    assert page("document.activeElement.name") == "seed"
    assert stub.bodies == []


@needs_browser
def test_control_enter_generates_from_the_keyboard(page: Browser, stub: StubServer) -> None:
    page("document.querySelector('#prompt').focus()")
    page.call("Input.insertText", text="Typed in")
    page.press("Enter", control=True)
    page.wait(FINISHED)
    assert [body["prompt"] for body in stub.bodies] == ["Typed in"]


@needs_browser
def test_stop_closes_the_connection_and_keeps_the_text(page: Browser, stub: StubServer) -> None:
    page.generate("endless")
    page.wait("document.querySelector('.continuation').innerText.includes('more more')")
    page("document.querySelector('#stop').focus()")
    page.click("#stop")
    page.wait("document.querySelector('#status').innerText === 'Stopped.'")
    assert stub.client_disconnected.wait(5)
    assert "more more" in page.text(".continuation")
    assert "finish reason\nstopped" in page.texts("dl div")
    assert page("document.activeElement.id") == "generate"
    assert page.console_errors == []


@needs_browser
def test_generating_again_cancels_the_running_request(page: Browser, stub: StubServer) -> None:
    page.generate("endless")
    page.wait("document.querySelector('.continuation')?.innerText.includes('more')")
    page.generate("Hello")
    page.wait(FINISHED)
    assert stub.client_disconnected.wait(5)
    assert page.texts(".prompt") == ["Hello"]


@needs_browser
def test_comparing_sends_both_models_the_same_request_with_the_same_seed(page: Browser, stub: StubServer) -> None:
    page.click("[name=compare]")
    page.generate("Hello")
    page.wait(FINISHED)
    adapter_body, base_body = sorted(stub.bodies, key=lambda body: body["adapter"], reverse=True)
    assert isinstance(adapter_body["seed"], int)
    assert adapter_body == {**base_body, "adapter": "stories-lora"}
    assert base_body["adapter"] == "sample"
    assert page.texts("h3") == ["stories-lora adapter of sample", "sample base"]
    assert page.texts(".continuation") == [f"{name}: {''.join(PIECES)}" for name in ("stories-lora", "sample")]
    left, right = page("[...document.querySelectorAll('article')].map(e => e.getBoundingClientRect().toJSON())")
    assert left["top"] == right["top"]
    assert left["right"] < right["left"]


@needs_browser
def test_the_second_picker_changes_when_its_model_is_picked_in_the_first(page: Browser) -> None:
    page.click("[name=compare]")
    page.set("model", "sample")
    assert page("document.querySelector('[name=other]').value") == "stories-lora"


@needs_browser
def test_comparing_is_disabled_with_a_single_model(page: Browser, stub: StubServer) -> None:
    page.click("[name=compare]")
    stub.models = [model_card("sample", default=True)]
    page.open(stub.address)
    page.wait("document.querySelector('#model').value === 'sample'")
    assert page("document.querySelector('[name=compare]').disabled")
    assert "Only one model" in page.text("#compare-hint")
    page.generate("Hello")
    page.wait(FINISHED)
    assert [body["adapter"] for body in stub.bodies] == ["sample"]


@needs_browser
@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("invalid", "Top p: Input should be greater than 0."),
        ("long", "The prompt has 600 tokens and the model takes 512."),
        ("busy", "The server is busy: try again in 7 seconds."),
        ("proxy", "The server answered with status 502."),
        ("failing", "The engine has stopped."),
        ("ending", "The connection was lost before the text was complete."),
        ("cut", "The connection was lost before the text was complete."),
    ],
)
def test_an_error_is_shown_as_a_sentence_in_place_of_the_text(page: Browser, prompt: str, words: str) -> None:
    page.generate(prompt)
    page.wait(FAILED)
    page.wait("document.querySelector('#stop').hidden")
    assert page.texts(".error") == [words]
    assert [error for error in page.console_errors if "Failed to load resource" not in error] == []


@needs_browser
def test_an_unreachable_server_is_reported(page: Browser, stub: StubServer) -> None:
    stub.close()
    page.generate("Hello")
    page.wait(FAILED)
    assert page.text(".error").startswith("The server cannot be reached")


@needs_browser
def test_models_that_could_not_be_loaded_are_requested_again(page: Browser, stub: StubServer) -> None:
    stub.models = []
    page.open(stub.address)
    page.wait(FAILED)
    assert page.text(".error") == "The model is still loading."
    stub.models = BASE_AND_ADAPTER
    page.generate("Hello")
    page.wait(FINISHED)
    assert page.text(".continuation").startswith("stories-lora: ")


@needs_browser
def test_prompt_and_settings_are_restored_at_the_next_visit(page: Browser, stub: StubServer) -> None:
    page.set("prompt", "Kept")
    page.set("temperature", "1.5")
    page.set("use_cache", False)
    page.set("model", "sample")
    page.open(stub.address)
    page.wait("document.querySelector('#model').value")
    values = page("['prompt', 'temperature', 'model'].map(n => document.querySelector(`[name=${n}]`).value)")
    assert values == ["Kept", "1.5", "sample"]
    assert page.text("output[for=temperature]") == "1.5"
    assert not page("document.querySelector('[name=use_cache]').checked")


@needs_browser
@pytest.mark.parametrize("width", [360, 820, 1280])
def test_nothing_is_wider_than_the_screen(page: Browser, stub: StubServer, width: int) -> None:
    stub.models = [model_card("a-model-with-a-name-" * 4, default=True), *BASE_AND_ADAPTER[:1]]
    page.resize(width, 740, phone=width < 600)
    page.open(stub.address)
    page.wait("document.querySelector('#model').value")
    page.click("[name=compare]")
    page.click("summary")
    page.generate("W" * 300)
    page.wait(FINISHED)
    assert page("document.documentElement.scrollWidth <= innerWidth")
    assert page("innerWidth") == width
    assert page.console_errors == []


@needs_browser
def test_with_the_real_server_base_and_adapter_stream_side_by_side(browser: Browser, server: RunningServer) -> None:
    browser.resize(1280, 800)
    browser.open(f"{server.url}/")
    browser.wait("document.querySelector('#model').value")
    browser.set("model", "moth")
    browser.click("[name=compare]")
    browser.set("max_new_tokens", "24")
    browser.generate("Once upon a time there was a")
    browser.wait(FINISHED)
    seed = int(browser("document.body.innerText.match(/seed\\s+(\\d+)/)[1]"))
    settings = {"prompt": "Once upon a time there was a", "max_new_tokens": 24, "temperature": 0.8, "seed": seed}
    texts = [server.post("/generate", settings | {"adapter": name}).json()["text"] for name in ("moth", "red")]
    shown = browser("document.querySelector('main').textContent")
    assert all(text in shown for text in texts)
    assert texts[0] != texts[1]
    assert browser.console_errors == []
