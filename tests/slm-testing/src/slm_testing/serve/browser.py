"""A headless Chromium, driven over the DevTools protocol."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

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


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, in the folder ``profile``."""
    command = [str(BINARY), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with connect(tab_address(profile / "DevToolsActivePort"), max_size=None) as tab:
            yield Browser(tab)
    finally:
        process.terminate()
        process.wait(10)
