"""The playground in completion mode, in a browser."""

import pytest

from slm_testing.serve.browser import Browser, needs_browser
from slm_testing.serve.stub_server import LONG_TEXT, PIECES, StubServer
from slm_testing.serve.waiting import wait_until

FINISHED = "document.querySelector('#status').innerText === 'Finished.'"
CONTINUE = "article .actions-row button"
pytestmark = needs_browser


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


def test_a_seed_that_is_not_an_integer_is_not_sent(page: Browser, stub: StubServer) -> None:
    page.set("seed", "1.5")
    page.generate("Hello")
    assert page("document.activeElement.name") == "seed"
    assert stub.bodies == []


@pytest.mark.parametrize("prompt", ["", "  \n "])
def test_an_empty_prompt_is_rejected_without_a_request(page: Browser, stub: StubServer, prompt: str) -> None:
    page.generate(prompt)
    assert page.text("#status") == "Write a prompt first; the model continues it."
    assert page("document.activeElement.ariaInvalid") == "true"
    assert stub.bodies == []
    page.generate("Hello")
    page.wait(FINISHED)


def test_control_enter_generates_from_the_keyboard(page: Browser, stub: StubServer) -> None:
    page.type("#prompt", "Typed in")
    page.press("Enter", control=True)
    page.wait(FINISHED)
    assert [body["prompt"] for body in stub.bodies] == ["Typed in"]


@pytest.mark.parametrize("by_key", [False, True], ids=["button", "escape"])
def test_stop_closes_the_connection_and_keeps_the_text(page: Browser, stub: StubServer, by_key: bool) -> None:
    page.generate("endless")
    page.wait("document.querySelector('.continuation')?.innerText.includes('more more')")
    page("document.querySelector('#stop').focus()")
    if by_key:
        page.press("Escape")
    else:
        page.click("#stop")
    page.wait("document.querySelector('#status').innerText === 'Stopped.'")
    assert stub.client_disconnected.wait(5)
    assert "more more" in page.text(".continuation")
    assert "finish reason\nstopped" in page.texts("dl div")
    assert page("document.activeElement.id") == "generate"
    assert page.console_errors == []


def test_generating_again_cancels_the_running_request(page: Browser, stub: StubServer) -> None:
    page.generate("endless")
    page.wait("document.querySelector('.continuation')?.innerText.includes('more')")
    page.generate("Hello")
    page.wait(FINISHED)
    assert stub.client_disconnected.wait(5)
    assert page.texts(".prompt") == ["Hello"]


def test_continue_sends_the_text_so_far_and_adds_to_it(page: Browser, stub: StubServer) -> None:
    page.generate("Hello")
    page.wait(FINISHED)
    first = page.text(".continuation")
    page.click(CONTINUE)
    page.wait(f"{FINISHED} && document.querySelector('dd').innerText === '80'")
    assert [body["prompt"] for body in stub.bodies] == ["Hello", "Hello" + first]
    assert page.text(".continuation") == first * 2
    assert len(page.texts("#run-list li")) == 1


def test_a_very_long_text_is_complete_and_in_blocks(page: Browser) -> None:
    page.generate("huge")
    page.wait(FINISHED)
    assert page("document.querySelector('.continuation').textContent") == LONG_TEXT
    longest = page("Math.max(...[...document.querySelectorAll('.block')].map(e => e.textContent.length))")
    assert longest < 10_000


def test_runs_are_kept_can_be_opened_and_cleared(page: Browser, stub: StubServer) -> None:
    page.set("temperature", "0.5")
    page.generate("first")
    page.wait(FINISHED)
    page.set("temperature", "1.5")
    page.set("model", "sample")
    page.generate("second")
    page.wait(FINISHED)
    page.open(stub.address)
    page.wait("document.querySelector('#model').value")
    assert page.texts("#run-list b") == ["second", "first"]
    page.click("#run-list li:last-child button")
    assert page.text(".text") == "first" + "stories-lora: " + "".join(PIECES)
    assert page("document.querySelector('#prompt').value") == "first"
    assert page("document.querySelector('#temperature').value") == "0.5"
    assert page("document.querySelector('#model').value") == "stories-lora"
    page.click("#clear-runs")
    page.open(stub.address)
    assert page("document.querySelector('#runs').hidden")
    assert page.console_errors == []


def test_no_more_runs_are_kept_than_the_limit(page: Browser, stub: StubServer) -> None:
    result = {"model": "sample", "prompt": "p", "text": "t", "figures": {}}
    page(f"""localStorage.setItem('slm-playground-runs', JSON.stringify(Array.from({{length: 50}}, (_, time) => (
        {{time, prompt: `old ${{time}}`, settings: {{}}, compare: false, results: [{result}]}}))))""")
    page.open(stub.address)
    page.wait("document.querySelector('#model').value")
    page.generate("new")
    page.wait(FINISHED)
    prompts = page("JSON.parse(localStorage.getItem('slm-playground-runs')).map(run => run.prompt)")
    assert prompts == [*(f"old {number}" for number in range(1, 50)), "new"]


def test_comparing_sends_both_models_the_same_request_with_the_same_seed(page: Browser, stub: StubServer) -> None:
    page.click("[name=compare]")
    page.generate("Hello")
    page.wait(FINISHED)
    adapter_body, base_body = sorted(stub.bodies, key=lambda body: body["adapter"], reverse=True)
    assert isinstance(adapter_body["seed"], int)
    assert adapter_body == {**base_body, "adapter": "stories-lora"}
    assert base_body["adapter"] == "sample"
    assert page.texts("article h3") == ["stories-lora adapter of sample", "sample base"]
    assert page.texts(".continuation") == [f"{name}: {''.join(PIECES)}" for name in ("stories-lora", "sample")]
    left, right = page("[...document.querySelectorAll('article')].map(e => e.getBoundingClientRect().toJSON())")
    assert left["top"] == right["top"]
    assert left["right"] < right["left"]


def test_on_a_phone_the_output_scrolls_into_view(page: Browser) -> None:
    page.resize(390, 640, phone=True)
    assert page("document.querySelector('#output').getBoundingClientRect().top > innerHeight / 2")
    page.generate("Hello")
    page.wait(FINISHED)
    page.wait("document.querySelector('.text').getBoundingClientRect().bottom < innerHeight")
    page("scrollTo(0, 0)")
    page.generate("huge")
    page.wait("document.querySelector('#output').getBoundingClientRect().top < innerHeight / 2")
    page.wait(FINISHED)
