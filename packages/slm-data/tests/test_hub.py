"""Datasets of the hub through the real client, in a process of its own, against a small hub.

The client reads HF_ENDPOINT when it is imported, so one child process serves all tests: it takes
options as a line of JSON and answers with the corpus or the error.
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
import pytest

REVISION = hashlib.sha1(b"first").hexdigest()
WAYS_OUT = ("try again", "--train_file", "--dataset sample")
SECONDS = 20.0  # the longest that a user waits for an error; ten of them are for a busy machine

CHILD = """
import json, sys
from contextlib import ExitStack
from unittest.mock import patch
from slm_data.options import SourceOptions
from slm_data.sources import load_corpus
print(json.dumps({"imported": "datasets" in sys.modules}), flush=True)
for line in sys.stdin:
    options = json.loads(line)
    try:
        with ExitStack() as stack:
            if options.pop("offline", False):  # what HF_HUB_OFFLINE=1 sets
                for library in ("huggingface_hub.constants", "datasets.config"):
                    stack.enter_context(patch(f"{library}.HF_HUB_OFFLINE", True))
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
  data_files: [{split: train, path: train.parquet}, {split: validation, path: validation.parquet}]
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
    },
    "sick/stories": PAIR,
    "cut/stories": PAIR,
    "gated/stories": PAIR,
}


class Handler(BaseHTTPRequestHandler):
    """A connection an answer, so that a hub that goes away is away for all."""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        wanted = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
        self.route(wanted)

    def do_GET(self) -> None:
        self.route(None)

    def route(self, wanted: list[str] | None) -> None:
        url = unquote(urlparse(self.path).path)
        found = re.fullmatch(r"/(api/)?datasets/([^/]+)/([^/]+)(/tree/.+|/paths-info/.+|/resolve/[^/]+/(.+)|.*)", url)
        assert found is not None
        is_api, owner, name, rest, file = found.groups()
        files = REPOS.get(f"{owner}/{name}")
        if files is None:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif owner == "gated":
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif not is_api:
            self.send_file(owner, file, files)
        elif "/tree/" in rest or "/paths-info/" in rest:
            listed = [self.entry(file, content) for file, content in files.items() if wanted is None or file in wanted]
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
        return self.answer(status, content, headers, cut=owner == "cut")

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)

    @staticmethod
    def entry(file: str, content: bytes) -> dict[str, object]:
        return {"type": "file", "path": file, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}


class Hub:
    """The server, which can leave its port and come back to it."""

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
    def away(self) -> Iterator[None]:
        self.close()
        yield
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.serve()


class Client:
    """The child process."""

    def __init__(self, hub: Hub, home: Path) -> None:
        own = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        self.log = (home / "stderr").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **own},
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
        began = time.monotonic()
        answer = self.load(**options)
        assert answer.get("kind") == "DataError", answer
        assert time.monotonic() - began < SECONDS
        return str(answer["error"])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.log.close()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(hub, tmp_path_factory.mktemp("hf"))
    yield client
    client.close()


def test_the_datasets_library_is_imported_only_for_the_hub(client: Client) -> None:
    assert client.start == {"imported": False}


def test_texts_come_in_order_without_blank_ones_and_can_be_read_again(client: Client) -> None:
    corpus = client.load(dataset="fine/stories")
    assert corpus["train"] == corpus["again"] == STORIES
    assert corpus["validation"] == ["Held back.", "Kept back."]
    assert corpus["notes"] == []
    assert REVISION in corpus["identity"]


def test_a_streamed_dataset_is_the_same_as_a_downloaded_one(client: Client) -> None:
    assert client.load(dataset="fine/stories", streaming=True) == client.load(dataset="fine/stories")


def test_the_caps_take_the_first_documents(client: Client) -> None:
    whole = client.load(dataset="fine/stories")
    capped = client.load(dataset="fine/stories", max_train_samples=3, max_eval_samples=2)
    assert (capped["train"], capped["validation"]) == (STORIES[:3], ["Held back.", "Kept back."])
    assert capped["identity"] != whole["identity"]


def test_wikitext_is_read_as_articles_and_every_byte_is_kept(client: Client) -> None:
    corpus = client.load(dataset="wikitext2")
    # The blank line before a heading belongs to the article before it.
    assert corpus["train"] == ["".join([*LINES[1:], " \n"]), "".join(BROKEN_LINES[1:])]
    assert corpus["validation"] == ["".join(LINES[1:])]


def test_a_test_split_is_never_tuned_on(client: Client) -> None:
    corpus = client.load(dataset="fine/tested")
    assert sorted(corpus["train"] + corpus["validation"]) == sorted(STORIES)
    assert "no validation split" in corpus["notes"][0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": "fine/judged"}, ["no split 'train'", "test"]),
        ({"dataset": "fine/columns"}, ["no column 'text'", "story, stars", "--text_column"]),
        ({"dataset": "fine/columns", "text_column": "stars"}, ["'stars'", "int64", "story"]),
        ({"dataset": "Salesforce/wikitext"}, ["several configurations", "wikitext-2-raw-v1, other"]),
        ({"dataset": "Salesforce/wikitext:nope"}, ["'nope'", "wikitext-2-raw-v1, other"]),
    ],
)
def test_what_does_not_fit_is_told_with_what_there_is(client: Client, options: dict[str, str], said: list[str]) -> None:
    error = client.error(**options)
    assert options["dataset"].partition(":")[0] in error
    assert all(words in error for words in said), error


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nobody/nothing", "nothing of that name"),
        ("gated/stories", "gated"),
        ("sick/stories", "503"),
        ("cut/stories", "broke off"),
    ],
)
def test_trouble_with_the_hub_is_one_sentence_with_the_ways_out(client: Client, name: str, why: str) -> None:
    error = client.error(dataset=name)
    assert all(words in error for words in (name, why, *WAYS_OUT)), error
    assert "\n" not in error


def test_without_the_hub_a_copy_in_the_cache_serves(client: Client, hub: Hub) -> None:
    online = client.load(dataset="fine/cached")
    with hub.away():
        error = client.error(dataset="fine/absent")
        offline = client.load(dataset="fine/cached")
    assert all(words in error for words in ("cannot be reached", "fine/absent", *WAYS_OUT)), error
    assert "cannot be reached; the copy in the cache is used" in offline["notes"][0]
    assert {**offline, "notes": []} == online


def test_offline_mode_reads_the_cache_and_says_what_is_not_there(client: Client) -> None:
    online = client.load(dataset="fine/cached")
    cached = client.load(dataset="fine/cached", offline=True)
    assert {**cached, "notes": []} == online
    assert "HF_HUB_OFFLINE" in cached["notes"][0]
    error = client.error(dataset="fine/absent", offline=True)
    assert "HF_HUB_OFFLINE" in error
    assert "the cache holds no copy" in error
