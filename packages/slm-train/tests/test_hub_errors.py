"""Errors of the hub, over real HTTP, through the command's own client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from slm_testing.train.tiny_runs import Tiny


class FailingHub(BaseHTTPRequestHandler):
    """Answers every request with ``status``; with 200 it announces 10,000 bytes and closes after a few."""

    status = 503

    def do_GET(self) -> None:
        self.send_response(self.status)
        if self.status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", "10000" if self.status == 200 else "0")
        self.end_headers()
        if self.status == 200 and self.command == "GET":
            self.wfile.write(b'{"sha": ')
            self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Print nothing."""


CHILD = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from slm_train.cli import main

real = sys.stdout
for line in sys.stdin:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as errors:
        code = main(json.loads(line))
    print(json.dumps([code, errors.getvalue()]), file=real, flush=True)
"""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (FailingHub,), {}))
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    stop(server)


def stop(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


def test_a_failing_or_unreachable_hub_is_reported_in_one_sentence(
    tiny: Tiny, tmp_path: Path, hub: ThreadingHTTPServer, subtests: pytest.Subtests
) -> None:
    """huggingface_hub reads the address of the hub on import, so one process with that address runs all commands."""
    handler: Any = hub.RequestHandlerClass
    url = f"http://127.0.0.1:{hub.server_port}"
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    pipe: Any = subprocess.PIPE
    model, dataset = tiny.flags(tmp_path / "run"), tiny.flags(tmp_path / "run")
    model[model.index("--model_path") + 1] = "some/model"
    for name in ("--train_file", "--validation_file", "--document_separator"):
        del dataset[dataset.index(name) : dataset.index(name) + 2]
    dataset += ["--dataset", "some/texts"]
    commands = [("the model some/model", model), ("the dataset some/texts", dataset)]
    # The common parts of the sentences of slm_data and slm_adapters.
    errors = [
        (404, "no repository of that name exists on the hub"),
        (503, "the hub answers with status 503"),
        (200, "the connection to the hub was interrupted"),
        (None, "cannot be reached"),
    ]
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as child:
        for (status, expected), (what, flags) in product(errors, commands):
            with subtests.test(what, status=status):
                handler.status = status
                if status is None:
                    stop(hub)
                child.stdin.write(json.dumps(flags) + "\n")
                child.stdin.flush()
                code, stderr = json.loads(child.stdout.readline())
                assert code == 2, stderr
                assert len(stderr.strip().splitlines()) == 1, stderr
                assert stderr.startswith(f"slm-train: cannot load {what}")
                assert expected in stderr
                assert not (tmp_path / "run").exists()
        child.stdin.close()
        assert child.stderr.read() == ""  # nothing bypasses Python's own streams
    assert child.returncode == 0
