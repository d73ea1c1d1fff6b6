"""A stub of the server for tests of the playground page, with answers of all kinds. Needs only the standard library."""

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

PAGE_FOLDER = Path(str(files("slm_serve") / "page"))
CSP = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def model_card(name: str, parent: str | None = None, default: bool = False) -> dict[str, Any]:
    kind = "adapter" if parent else "base"
    fields = {"object": "model", "created": 1, "owned_by": "slm", "max_model_len": 512, "backend": "engine"}
    return {"id": name, **fields, "kind": kind, "parent": parent, "default": default}


BASE_AND_ADAPTER = [model_card("sample"), model_card("stories-lora", parent="sample", default=True)]
PIECES = ["the café", " was <b>bold</b>\n", "and 雪 fell 🌨"]
ENDING = {"prompt_tokens": 5, "finish_reason": "length", "tokens_per_second": 88.1, "seconds": 0.45}


STATUS_MESSAGE = re.compile(r"status (\d+)")  # a prompt or message that is answered with this status
LONG_TEXT = "".join(f"line {number} of a long text\n" for number in range(10_000))


class StubServer(ThreadingHTTPServer):
    """Serves the page under a path prefix; the prompt selects the method ``StubHandler.answer_...``.

    A chat is answered by the method ``StubHandler.chat_...`` that its last message selects. A word is a token.
    """

    daemon_threads = True

    def __init__(self, models: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), StubHandler)
        self.models = models
        self.bodies: list[dict[str, Any]] = []
        self.client_disconnected = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}/behind/a/proxy/"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that are closed early: tests do that on purpose."""


class StubHandler(BaseHTTPRequestHandler):
    server: StubServer

    def log_message(self, *_: Any) -> None:
        """Write nothing to standard error."""

    def do_GET(self) -> None:
        name = self.path.removeprefix("/behind/a/proxy/")
        path = PAGE_FOLDER / (name.removeprefix("static/") or "index.html")
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
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        endpoint = self.path.removeprefix("/behind/a/proxy/")
        if endpoint == "tokenize":
            texts = [body["prompt"]] if "prompt" in body else [message["content"] for message in body["messages"]]
            self.send_json(200, {"count": sum(len(text.split()) for text in texts)})
            return
        self.server.bodies.append(body)
        answer: Callable[[dict[str, Any]], None]
        if endpoint == "generate":
            text, answer = body["prompt"], getattr(self, f"answer_{body['prompt']}", self.answer_text)
        else:
            assert endpoint == "v1/chat/completions"
            text = body["messages"][-1]["content"]
            answer = getattr(self, f"chat_{text}", self.chat_text)
        if match := STATUS_MESSAGE.fullmatch(text):
            self.send_json(int(match[1]), {"error": {"message": f"the {endpoint} request got {match[1]}"}})
        else:
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
        """Send the events in chunks whose borders fall within lines and within characters."""
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
            self.server.client_disconnected.set()

    def answer_huge(self, _: dict[str, Any]) -> None:
        self.start(200, "text/event-stream")
        size = 997
        for start in range(0, len(LONG_TEXT), size):
            event = {"text": LONG_TEXT[start : start + size], "completion_tokens": start}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.send_events({"text": "", "completion_tokens": len(LONG_TEXT), **ENDING}, "[DONE]")

    def send_chat(self, *texts: str, finish_reason: str | None = None) -> None:
        """Send pieces of an answer; with a reason also the end of the stream."""
        chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
        if finish_reason is None:
            self.send_events(*chunks)
        else:
            end = {"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]}
            usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}}
            self.send_events(*chunks, end, usage, "[DONE]")

    def chat_text(self, body: dict[str, Any]) -> None:
        """Answer with the name of the model, the number of the message and its text."""
        self.start(200, "text/event-stream")
        question = f"{len(body['messages'])} {body['messages'][-1]['content']}"
        self.send_chat("", f" {body['model']} got ", f"<b>{question}</b>", " 雪", finish_reason="stop")

    def chat_endless(self, _: dict[str, Any]) -> None:
        self.start(200, "text/event-stream")
        try:
            for _number in range(500):
                self.send_chat(" more")
                time.sleep(0.01)
        except OSError:
            self.server.client_disconnected.set()

    def chat_empty(self, _: dict[str, Any]) -> None:
        self.start(200, "text/event-stream")
        self.send_chat("", finish_reason="stop")

    def chat_failing(self, _: dict[str, Any]) -> None:
        self.start(200, "text/event-stream")
        self.send_chat(" some")
        self.send_events({"error": {"message": "the engine has stopped"}})

    def chat_cut(self, _: dict[str, Any]) -> None:
        self.start(200, "text/event-stream")
        self.send_chat(" some")

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
        """Reset the connection in the middle of the text."""
        self.answer_ending(_)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
