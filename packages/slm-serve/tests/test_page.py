"""The playground page: its files, and what it does in a headless Chromium against a stub of the server."""

from __future__ import annotations

import json
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

PAGE = Path(str(files("slm_serve") / "page"))
CSP = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--remote-debugging-port=0",
]
in_a_browser = pytest.mark.skipif(BINARY is None, reason="needs a browser: none of chromium, google-chrome is on PATH")


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.inline += data


def test_the_page_refers_only_to_files_beside_it() -> None:
    tags = Tags((PAGE / "index.html").read_text()).found
    addresses = {attributes[key] for _, attributes in tags for key in ("src", "href", "action") if key in attributes}
    assert addresses == {"static/icon.svg", "static/playground.css", "static/playground.js"}
    assert all((PAGE / str(address).removeprefix("static/")).is_file() for address in addresses)


def test_the_page_holds_no_script_style_or_handler_inline() -> None:
    tags = Tags((PAGE / "index.html").read_text())
    assert tags.inline.strip() == ""
    assert not [key for _, attributes in tags.found for key in attributes if key == "style" or key.startswith("on")]


def test_no_file_of_the_page_names_a_foreign_address_or_writes_markup() -> None:
    namespace = 'xmlns="http://www.w3.org/2000/svg"'
    for path in PAGE.iterdir():
        text = path.read_text().replace(namespace, "")
        assert not re.search(r"https?://|url\(|@import|innerHTML|outerHTML|insertAdjacentHTML|eval\(", text), path.name


def listed(name: str, parent: str | None = None, default: bool = False) -> dict[str, Any]:
    kind = "adapter" if parent else "base"
    known = {"object": "model", "created": 1, "owned_by": "slm", "max_model_len": 512}
    return {"id": name, **known, "kind": kind, "parent": parent, "default": default}


BOTH = [listed("sample"), listed("stories-lora", parent="sample", default=True)]
PIECES = ["the café", " was <b>bold</b>\n", "and 雪 fell 🌨"]
ENDING = {"prompt_tokens": 5, "finish_reason": "length", "tokens_per_second": 88.1, "seconds": 0.45}


class Stub(ThreadingHTTPServer):
    """Serves the page below a prefix; the prompt says how ``generate`` behaves."""

    daemon_threads = True

    def __init__(self, models: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.models = models
        self.bodies: list[dict[str, Any]] = []
        self.client_left = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}/behind/a/proxy/"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut is no error here."""


class Answers(BaseHTTPRequestHandler):
    server: Stub

    def log_message(self, *_: Any) -> None:
        """Nothing to standard error."""

    def do_GET(self) -> None:
        name = self.path.removeprefix("/behind/a/proxy/")
        path = PAGE / (name.removeprefix("static/") or "index.html")
        if name == "v1/models":
            if self.server.models:
                self.send_json(200, {"object": "list", "data": self.server.models})
            else:
                self.send_json(503, {"detail": "the model is still loading"})
        elif (name == "" or name.startswith("static/")) and path.is_file():
            self.start(200, TYPES[path.suffix])
            self.wfile.write(path.read_bytes())
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        assert self.path == "/behind/a/proxy/generate"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        answer: Callable[[dict[str, Any]], None] = getattr(self, f"answer_{body['prompt']}", self.answer_text)
        answer(body)

    def start(self, status: int, content_type: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Security-Policy", CSP)
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send_json(self, status: int, content: Any, **headers: str) -> None:
        self.start(status, "application/json", **headers)
        self.wfile.write(json.dumps(content).encode())

    def send_events(self, *events: dict[str, Any] | str) -> None:
        """Sends the events in chunks that cut through lines and characters."""
        lines = [event if isinstance(event, str) else json.dumps(event, ensure_ascii=False) for event in events]
        data = "".join(f"data: {line}\n\n" for line in lines).encode()
        for chunk in re.split(rb"(?<=[\xc0-\xff])|(?<=compl)", data):
            self.wfile.write(chunk)
            time.sleep(0.01)

    def answer_text(self, body: dict[str, Any]) -> None:
        self.start(200, "text/event-stream")
        pieces = [{"text": text, "completion_tokens": n} for n, text in enumerate(PIECES, 1)]
        ending = {"text": "", "completion_tokens": 40, **ENDING, "model": body["adapter"]}
        self.send_events({"text": f"{body['adapter']}: ", "completion_tokens": 0}, *pieces, ending, "[DONE]")

    def answer_endless(self, _: dict[str, Any]) -> None:
        self.start(200, "text/event-stream")
        try:
            for n in range(1, 500):
                self.send_events({"text": " more", "completion_tokens": n})
                time.sleep(0.01)
        except OSError:
            self.server.client_left.set()

    def answer_invalid(self, _: dict[str, Any]) -> None:
        fault = {"loc": ["body", "top_p"], "msg": "Input should be greater than 0", "type": "greater_than"}
        self.send_json(422, {"detail": [fault]})

    def answer_long(self, _: dict[str, Any]) -> None:
        self.send_json(422, {"detail": "the prompt has 600 tokens and the model takes 512"})

    def answer_busy(self, _: dict[str, Any]) -> None:
        self.send_json(429, {"detail": "too many requests"}, Retry_After="7")

    def answer_proxy(self, _: dict[str, Any]) -> None:
        self.start(502, "text/html")
        self.wfile.write(b"<h1>Bad Gateway</h1>")

    def answer_failing(self, _: dict[str, Any]) -> None:
        self.start(200, "text/event-stream")
        self.send_events({"text": " some", "completion_tokens": 1}, {"error": {"message": "the engine has stopped"}})

    def answer_ending(self, _: dict[str, Any]) -> None:
        self.start(200, "text/event-stream")
        self.send_events({"text": " some", "completion_tokens": 1})

    def answer_cut(self, _: dict[str, Any]) -> None:
        """A reset of the connection within the text."""
        self.answer_ending(_)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class Browser:
    """A headless Chromium with one tab, driven over the DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.calls = 0
        self.complaints: list[str] = []
        self.address = ""
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": params}))
        while (message := json.loads(self.socket.recv(timeout=10))).get("id") != self.calls:
            self.note(message)
        assert "error" not in message, message["error"]
        return message["result"]

    def note(self, event: dict[str, Any]) -> None:
        """Keeps what the console would show in red."""
        told = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(told["exceptionDetails"]["exception"]["description"])
        elif event["method"] == "Runtime.consoleAPICalled" and told["type"] in {"error", "warning"}:
            self.complaints.append(str(told["args"]))
        elif event["method"] == "Log.entryAdded" and self.concerns_this_page(told["entry"]):
            self.complaints.append(told["entry"]["text"])

    def concerns_this_page(self, entry: dict[str, Any]) -> bool:
        """Whether it is no mere note, nor about an address that the page before this one still asked."""
        ours = entry.get("url", self.address).startswith(self.address)
        return ours and entry["level"] in {"error", "warning"}

    def __call__(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        within(10, lambda: self(expression))

    def open(self, address: str) -> None:
        self.complaints.clear()
        self.address = address
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def resize(self, width: int, height: int, phone: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def set(self, control: str, value: str | bool) -> None:
        """Sets a control, found by its name, as a user would."""
        key = "checked" if isinstance(value, bool) else "value"
        self(
            f"(c => {{ c.{key} = {json.dumps(value)}; c.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
            f"(document.querySelector('[name={control}]'))"
        )

    def press(self, key: str, control: bool = False) -> None:
        told = {"key": key, "code": key, "windowsVirtualKeyCode": {"Enter": 13}[key], "modifiers": 2 * control}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **told)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def text(self, selector: str) -> str:
        return self(f"document.querySelector('{selector}')?.innerText")

    def texts(self, selector: str) -> list[str]:
        return self(f"[...document.querySelectorAll('{selector}')].map(e => e.innerText)")

    def click(self, selector: str) -> None:
        self(f"document.querySelector('{selector}').click()")

    def generate(self, prompt: str) -> None:
        self.set("prompt", prompt)
        self.click("#generate")


def tab_address(port_file: Path) -> str:
    within(15, lambda: port_file.exists() and "\n" in port_file.read_text())
    with urlopen(f"http://127.0.0.1:{port_file.read_text().split()[0]}/json/list") as answer:
        return next(target["webSocketDebuggerUrl"] for target in json.load(answer) if target["type"] == "page")


def within(seconds: float, happened: Callable[[], Any]) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, f"did not happen within {seconds} seconds"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    profile = tmp_path_factory.mktemp("profile")
    command = [str(BINARY), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with connect(tab_address(profile / "DevToolsActivePort"), max_size=None) as tab:
            yield Browser(tab)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub(BOTH)
    yield stub
    stub.close()


@pytest.fixture
def page(browser: Browser, stub: Stub) -> Browser:
    """The page with its models loaded; its storage is empty, as each stub has a port of its own."""
    browser.resize(1280, 800)
    browser.open(stub.address)
    browser.wait("document.querySelector('#model').value")
    return browser


FINISHED = "document.querySelector('#status').innerText === 'Finished.'"
FAILED = "document.querySelector('.error:not([hidden])') !== null"


@in_a_browser
def test_the_models_are_in_the_picker_and_the_default_is_chosen(page: Browser) -> None:
    assert page.texts("#model option") == ["sample (base)", "stories-lora (adapter of sample)"]
    assert page("document.querySelector('#model').value") == "stories-lora"
    assert page("document.querySelector('[name=other]').value") == "sample"
    assert page("document.querySelector('#max_new_tokens').max") == "512"


@in_a_browser
def test_every_control_has_a_name_to_be_read_out(page: Browser) -> None:
    controls = "[...document.querySelectorAll('input, select, textarea, button')]"
    assert page(f"{controls}.filter(c => !c.labels.length && !c.ariaLabel && !c.innerText && !c.hidden).length") == 0


@in_a_browser
def test_the_text_streams_in_as_text_after_the_prompt(page: Browser) -> None:
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
    assert page.complaints == []


@in_a_browser
def test_the_request_says_what_the_controls_say(page: Browser, stub: Stub) -> None:
    numbers = {"max_new_tokens": 77, "temperature": 1.25, "top_k": 40, "top_p": 0.9, "min_p": 0.05}
    numbers |= {"repetition_penalty": 1.1, "seed": 12}
    for name, value in numbers.items():
        page.set(name, str(value))
    page.set("stop", "The end\n\n\\n\\n\n two")
    page.set("use_cache", False)
    page.set("model", "sample")
    page.generate("Hello")
    page.wait(FINISHED)
    rest = {"prompt": "Hello", "stop": ["The end", "\n\n", " two"], "stream": True, "use_cache": False}
    assert stub.bodies == [{**numbers, **rest, "adapter": "sample"}]
    page.click("button[type=reset]")
    page.wait("document.querySelector('[name=use_cache]').checked")
    page.click("#generate")
    within(5, lambda: len(stub.bodies) == 2)
    assert stub.bodies[1]["seed"] != 12
    neutral = {"max_new_tokens": 128, "temperature": 0.8, "top_k": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1}
    rest = {"prompt": "Hello", "stop": None, "stream": True, "use_cache": True, "adapter": "sample"}
    assert stub.bodies[1] == {**neutral, **rest, "seed": stub.bodies[1]["seed"]}


@in_a_browser
def test_a_seed_that_is_no_whole_number_is_not_sent(page: Browser, stub: Stub) -> None:
    page.set("seed", "1.5")
    page.generate("Hello")
    assert page("document.activeElement.name") == "seed"
    assert stub.bodies == []


@in_a_browser
def test_control_and_enter_generate_from_the_keyboard(page: Browser, stub: Stub) -> None:
    page("document.querySelector('#prompt').focus()")
    page.call("Input.insertText", text="Typed in")
    page.press("Enter", control=True)
    page.wait(FINISHED)
    assert [body["prompt"] for body in stub.bodies] == ["Typed in"]


@in_a_browser
def test_stop_closes_the_connection_and_keeps_the_text(page: Browser, stub: Stub) -> None:
    page.generate("endless")
    page.wait("document.querySelector('.continuation').innerText.includes('more more')")
    page("document.querySelector('#stop').focus()")
    page.click("#stop")
    page.wait("document.querySelector('#status').innerText === 'Stopped.'")
    assert stub.client_left.wait(5)
    assert "more more" in page.text(".continuation")
    assert "finish reason\nstopped" in page.texts("dl div")
    assert page("document.activeElement.id") == "generate"
    assert page.complaints == []


@in_a_browser
def test_generating_anew_ends_what_runs(page: Browser, stub: Stub) -> None:
    page.generate("endless")
    page.wait("document.querySelector('.continuation')?.innerText.includes('more')")
    page.generate("Hello")
    page.wait(FINISHED)
    assert stub.client_left.wait(5)
    assert page.texts(".prompt") == ["Hello"]


@in_a_browser
def test_comparing_asks_both_models_the_same_with_the_same_seed(page: Browser, stub: Stub) -> None:
    page.click("[name=compare]")
    page.generate("Hello")
    page.wait(FINISHED)
    one, two = sorted(stub.bodies, key=lambda body: body["adapter"], reverse=True)
    assert isinstance(one["seed"], int)
    assert one == {**two, "adapter": "stories-lora"}
    assert two["adapter"] == "sample"
    assert page.texts("h3") == ["stories-lora adapter of sample", "sample base"]
    assert page.texts(".continuation") == [f"{name}: {''.join(PIECES)}" for name in ("stories-lora", "sample")]
    left, right = page("[...document.querySelectorAll('article')].map(e => e.getBoundingClientRect().toJSON())")
    assert left["top"] == right["top"]
    assert left["right"] < right["left"]


@in_a_browser
def test_the_second_picker_moves_off_the_model_just_picked(page: Browser) -> None:
    page.click("[name=compare]")
    page.set("model", "sample")
    assert page("document.querySelector('[name=other]').value") == "stories-lora"


@in_a_browser
def test_one_model_alone_is_not_compared(page: Browser, stub: Stub) -> None:
    page.click("[name=compare]")
    stub.models = [listed("sample", default=True)]
    page.open(stub.address)
    page.wait("document.querySelector('#model').value === 'sample'")
    assert page("document.querySelector('[name=compare]').disabled")
    assert "Only one model" in page.text("#compare-hint")
    page.generate("Hello")
    page.wait(FINISHED)
    assert [body["adapter"] for body in stub.bodies] == ["sample"]


@in_a_browser
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
def test_an_error_is_a_sentence_where_the_text_would_be(page: Browser, prompt: str, words: str) -> None:
    page.generate(prompt)
    page.wait(FAILED)
    page.wait("document.querySelector('#stop').hidden")
    assert page.texts(".error") == [words]
    assert [complaint for complaint in page.complaints if "Failed to load resource" not in complaint] == []


@in_a_browser
def test_a_server_that_is_gone_is_named(page: Browser, stub: Stub) -> None:
    stub.close()
    page.generate("Hello")
    page.wait(FAILED)
    assert page.text(".error").startswith("The server cannot be reached")


@in_a_browser
def test_models_that_could_not_be_had_are_asked_for_again(page: Browser, stub: Stub) -> None:
    stub.models = []
    page.open(stub.address)
    page.wait(FAILED)
    assert page.text(".error") == "The model is still loading."
    stub.models = BOTH
    page.generate("Hello")
    page.wait(FINISHED)
    assert page.text(".continuation").startswith("stories-lora: ")


@in_a_browser
def test_prompt_and_settings_are_there_at_the_next_visit(page: Browser, stub: Stub) -> None:
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


@in_a_browser
@pytest.mark.parametrize("width", [360, 820, 1280])
def test_nothing_is_wider_than_the_screen(page: Browser, stub: Stub, width: int) -> None:
    stub.models = [listed("a-model-with-a-name-" * 4, default=True), *BOTH[:1]]
    page.resize(width, 740, phone=width < 600)
    page.open(stub.address)
    page.wait("document.querySelector('#model').value")
    page.click("[name=compare]")
    page.click("summary")
    page.generate("W" * 300)
    page.wait(FINISHED)
    assert page("document.documentElement.scrollWidth <= innerWidth")
    assert page("innerWidth") == width
    assert page.complaints == []
