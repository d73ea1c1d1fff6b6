"""A hub that is sick, over real HTTP, through the real command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from conftest import Tiny, run_command


class Sick(BaseHTTPRequestHandler):
    """Answers every request with ``status``; with 200 it promises 10,000 bytes and goes away after a few."""

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
        """Quiet."""


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Handler", (Sick,), {"status": request.param})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("hub", "said"), [(404, "nothing of that name"), (503, "status 503"), (200, "broke off")], indirect=["hub"], ids=str
)
@pytest.mark.parametrize("what", ["model", "dataset"])
def test_a_sick_hub_is_one_sentence(tiny: Tiny, tmp_path: Path, hub: str, said: str, what: str) -> None:
    flags = tiny.flags(tmp_path / "run")
    if what == "model":
        flags[flags.index("--model_path") + 1] = "some/model"
    else:
        for name in ("--train_file", "--validation_file", "--document_separator"):
            del flags[flags.index(name) : flags.index(name) + 2]
        flags += ["--dataset", "some/texts"]
    sick = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    done = run_command(flags, env=sick)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"slm-train: cannot load the {what} some/{'model' if what == 'model' else 'texts'}")
    assert said in done.stderr
    assert not (tmp_path / "run").exists()
