"""A small model hub on this machine, and its client in a child process.

huggingface_hub reads HF_ENDPOINT on import, so the client needs its own process. One serves all tests: it reads source
options as a line of JSON, and answers with the corpus or the error.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq

REVISION = hashlib.sha1(b"first").hexdigest()
ALTERNATIVES = ("try again", "--train_file", "--dataset sample")
MAX_SECONDS = 20.0  # until an error is reported, of which 10 allow for a busy machine

CHILD = """
import json, sys
from contextlib import ExitStack
from unittest.mock import patch
from slm_data import SourceOptions, load_corpus, split_texts
print(json.dumps({"imported": "datasets" in sys.modules}), flush=True)
for line in sys.stdin:
    options = json.loads(line)
    try:
        with ExitStack() as stack:
            if options.pop("offline", False):  # has the effect of HF_HUB_OFFLINE=1
                for library in ("huggingface_hub.constants", "datasets.config"):
                    stack.enter_context(patch(f"{library}.HF_HUB_OFFLINE", True))
            if "split" in options:
                print(json.dumps(split_texts(**options)), flush=True)
                continue
            corpus = load_corpus(SourceOptions(**options))
            answer = {
                "train": list(corpus.train), "again": list(corpus.train),
                "validation": list(corpus.validation),
                "identity": corpus.train.identity, "notes": corpus.notes,
            }
    except ValueError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(answer), flush=True)
"""


def parquet(**columns: list[Any]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


STORIES = [f"Story {number}." for number in range(30)]
TRAIN, VALIDATION = parquet(text=STORIES), parquet(text=["Held back.", "", "Kept back."])
LINES = [" \n", " = Lobster = \n", " \n", " It is blue . \n", " = = Food = = \n", " Yes . \n"]
BROKEN_LINES = [" \n", " = Filter = \n", " \n", " Let it be \n", " = 1 rad and k = \n", " 1 . \n"]
CONFIGS = """---
configs:
- config_name: wikitext-2-raw-v1
  data_files:
  - {split: train, path: train.parquet}
  - {split: validation, path: validation.parquet}
  - {split: test, path: test.parquet}
- config_name: other
  data_files: [{split: train, path: train.parquet}]
---
"""
PAIR = {"train.parquet": TRAIN, "validation.parquet": VALIDATION}
REPOS: dict[str, dict[str, bytes]] = {
    "fine/stories": PAIR,
    "fine/cached": PAIR,
    "fine/tested": {"train.parquet": TRAIN, "test.parquet": VALIDATION},
    "fine/judged": {"test.parquet": TRAIN},
    "fine/columns": {"train.parquet": parquet(story=STORIES, stars=list(range(30)))},
    "Salesforce/wikitext": {
        "README.md": CONFIGS.encode(),
        "train.parquet": parquet(text=LINES + BROKEN_LINES),
        "validation.parquet": parquet(text=LINES),
        "test.parquet": parquet(text=["", *BROKEN_LINES]),
    },
    "sick/stories": PAIR,
    "cut/stories": PAIR,
    "gated/stories": PAIR,
}


class Handler(BaseHTTPRequestHandler):
    """Answers of the hub's API. Connections are not kept alive, so a closed hub is unreachable for all clients."""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        requested = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
        self.route(requested)

    def do_GET(self) -> None:
        self.route(None)

    def route(self, requested: list[str] | None) -> None:
        url = unquote(urlparse(self.path).path)
        match = re.fullmatch(r"/(api/)?datasets/([^/]+)/([^/]+)(/tree/.+|/paths-info/.+|/resolve/[^/]+/(.+)|.*)", url)
        assert match is not None
        is_api, owner, name, rest, file = match.groups()
        files = REPOS.get(f"{owner}/{name}")
        if files is None:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif owner == "gated":
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif not is_api:
            self.send_file(owner, file, files)
        elif "/tree/" in rest or "/paths-info/" in rest:
            listed = [
                self.entry(file, content) for file, content in files.items() if requested is None or file in requested
            ]
            self.answer(200, json.dumps(listed).encode())
        else:
            self.answer(200, json.dumps({"id": f"{owner}/{name}", "sha": REVISION}).encode())

    def send_file(self, owner: str, file: str, files: dict[str, bytes]) -> None:
        if file not in files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        if owner == "sick" and self.command == "GET":
            return self.answer(503, b"sick")
        content, status = files[file], 200
        headers = {"X-Repo-Commit": REVISION, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        return self.answer(status, content, headers, truncate=owner == "cut")

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, truncate: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if truncate else body)

    @staticmethod
    def entry(file: str, content: bytes) -> dict[str, object]:
        return {"type": "file", "path": file, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}


class Hub:
    """The server. It can be unreachable for a while and then serve again on the same port."""

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.serve()

    def serve(self) -> None:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.close()
        yield
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.serve()


class Client:
    """The child process that loads corpora from the hub."""

    def __init__(self, hub: Hub, home: Path) -> None:
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        self.log = (home / "stderr").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **environment},
        )
        self.start = self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, Path(self.log.name).read_text()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def load(self, **options: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(options) + "\n")
        self.process.stdin.flush()
        return self.read()

    def error(self, **options: object) -> str:
        start = time.monotonic()
        answer = self.load(**options)
        assert answer.get("kind") == "DataError", answer
        assert time.monotonic() - start < MAX_SECONDS
        return str(answer["error"])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.log.close()
