"""A headless Chromium, controlled over the DevTools protocol."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

from slm_testing.serve.waiting import wait_until

BROWSER_PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--remote-debugging-port=0",
]
needs_browser = pytest.mark.skipif(BROWSER_PATH is None, reason="needs Chromium or Chrome on the PATH")


class Browser:
    """A headless Chromium with one tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.calls = 0
        self.console_errors: list[str] = []
        self.address = ""
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result."""
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": params}))
        while (message := json.loads(self.socket.recv(timeout=10))).get("id") != self.calls:
            self.record_console_error(message)
        assert "error" not in message, message["error"]
        return message["result"]

    def record_console_error(self, event: dict[str, Any]) -> None:
        """Record an event that the console shows as an error or a warning."""
        params = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            self.console_errors.append(params["exceptionDetails"]["exception"]["description"])
        elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning"}:
            self.console_errors.append(str(params["args"]))
        elif event["method"] == "Log.entryAdded" and self.is_error_of_page(params["entry"]):
            self.console_errors.append(params["entry"]["text"])

    def is_error_of_page(self, entry: dict[str, Any]) -> bool:
        """Whether a log entry is an error or warning of this page, not of a request that the previous page sent."""
        of_this_page = entry.get("url", self.address).startswith(self.address)
        return of_this_page and entry["level"] in {"error", "warning"}

    def __call__(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        wait_until(lambda: self(expression), 10)

    def open(self, address: str) -> None:
        self.console_errors.clear()
        self.address = address
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def resize(self, width: int, height: int, phone: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def set(self, control: str, value: str | bool) -> None:
        """Set the control with this name, as a user would."""
        key = "checked" if isinstance(value, bool) else "value"
        self(
            f"(c => {{ c.{key} = {json.dumps(value)}; c.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
            f"(document.querySelector('[name={control}]'))"
        )

    def press(self, key: str, control: bool = False, shift: bool = False) -> None:
        """Press Enter or Escape."""
        event = {"key": key, "code": key, "windowsVirtualKeyCode": {"Enter": 13, "Escape": 27}[key]}
        event["modifiers"] = 2 * control + 8 * shift
        text = {"text": "\r"} if key == "Enter" and not control else {}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, selector: str, text: str) -> None:
        """Type a text into the element that matches."""
        self(f"document.querySelector('{selector}').focus()")
        self.call("Input.insertText", text=text)

    def text(self, selector: str) -> str:
        """Return the visible text of the first element that matches."""
        return self(f"document.querySelector('{selector}')?.innerText")

    def texts(self, selector: str) -> list[str]:
        return self(f"[...document.querySelectorAll('{selector}')].map(e => e.innerText)")

    def click(self, selector: str) -> None:
        self(f"document.querySelector('{selector}').click()")

    def generate(self, prompt: str) -> None:
        """Enter a prompt and press Generate."""
        self.set("prompt", prompt)
        self.click("#generate")

    def send(self, message: str) -> None:
        """Enter a message of a chat and press Send."""
        self.set("message", message)
        self.click("#send")


def tab_address(port_file: Path) -> str:
    """Return the DevTools address of the browser's tab; ``port_file`` is written by the browser."""
    wait_until(lambda: port_file.exists() and "\n" in port_file.read_text(), 15)
    with urlopen(f"http://127.0.0.1:{port_file.read_text().split()[0]}/json/list") as response:
        return next(target["webSocketDebuggerUrl"] for target in json.load(response) if target["type"] == "page")


@contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """Run a browser with a fresh profile in the folder ``profile``."""
    command = [str(BROWSER_PATH), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        # No pings: their thread would draw from Python's global random numbers while other tests look at them.
        with connect(tab_address(profile / "DevToolsActivePort"), max_size=None, ping_interval=None) as tab:
            yield Browser(tab)
    finally:
        process.terminate()
        process.wait(10)
