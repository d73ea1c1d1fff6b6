"""The ``slm-serve`` process: start-up, signals, draining and exit codes."""

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

import slm_testing.forked as forked
from slm_serve import Settings
from slm_serve.errors import StartError
from slm_serve.server import _raise_file_limit, _warn_if_public
from slm_testing.serve.waiting import TIMEOUT

START_TIMEOUT = 180  # seconds for the imports and the model, while other processes run
NEW_TOKENS = 450  # of the 512 tokens that the context of the tiny model holds


@contextmanager
def command(folder: Path, *flags: str) -> Iterator[tuple[Any, str, Path]]:
    """Run ``slm-serve``; yield its process once it is ready, its URL, and the file of its output."""
    output = folder / "output.txt"
    argv = ["--port", "0", "--threads", "1", *flags]
    process = forked.start("slm_serve.cli", argv, output=output, errors=output)
    try:
        ready_line = forked.wait_for_line(process, output, "ready: ", START_TIMEOUT)
        yield process, ready_line.removeprefix("ready: "), output
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """One client for all requests: creating a client takes longer than a response of the tiny model."""
    with httpx.Client(timeout=TIMEOUT, limits=httpx.Limits(max_connections=50)) as client:
        yield client


@contextmanager
def running_requests(client: httpx.Client, url: str, count: int) -> Iterator[list[Future[httpx.Response]]]:
    """Send ``count`` requests on threads and wait until all have arrived; on a busy machine, some may have finished."""
    body = {"prompt": "a b c", "max_new_tokens": NEW_TOKENS, "temperature": 0}
    with ThreadPoolExecutor(count) as threads:
        futures = [threads.submit(client.post, f"{url}/generate", json=body) for _ in range(count)]
        end = time.monotonic() + TIMEOUT
        while sum(future.done() for future in futures) + unfinished_texts(client, url) < count:
            assert time.monotonic() < end
        yield futures


def unfinished_texts(client: httpx.Client, url: str) -> int:
    text = client.get(f"{url}/metrics").text
    return sum(int(float(value)) for value in re.findall(r"^slm_(?:running|queue) (\S+)$", text, re.MULTILINE))


def test_sigterm_loses_no_running_or_queued_request_and_accepts_no_new_one(
    tiny_model: Path, tmp_path: Path, client: httpx.Client
) -> None:
    flags = ["--model_path", str(tiny_model), "--max_sequences", "16", "--max_queue", "60"]
    with command(tmp_path, *flags) as (process, url, output):
        lines = output.read_text().splitlines()
        assert any(line.startswith("models: model (base)") for line in lines)
        assert any(re.match(r"pool: 512 pages .* MB", line) for line in lines)
        assert any("on cpu" in line and "threads: 1" in line for line in lines)
        with running_requests(client, url, 40) as futures:
            os.kill(process.pid, signal.SIGTERM)
            responses = [future.result() for future in futures]
        assert [response.status_code for response in responses] == [200] * 40
        assert {response.json()["completion_tokens"] for response in responses} == {NEW_TOKENS}
        process.join(TIMEOUT)
        assert process.exitcode == 0
        with pytest.raises(httpx.ConnectError):
            client.get(f"{url}/health/live")


def test_requests_that_do_not_finish_while_draining_get_504(
    tiny_model: Path, tmp_path: Path, client: httpx.Client
) -> None:
    flags = ["--model_path", str(tiny_model), "--max_sequences", "1", "--max_queue", "60", "--drain_timeout", "0.2"]
    with command(tmp_path, *flags) as (process, url, _):
        with running_requests(client, url, 20) as futures:
            os.kill(process.pid, signal.SIGTERM)
            statuses = {future.result().status_code for future in futures}
        assert 504 in statuses
        assert statuses <= {200, 504}
        process.join(TIMEOUT)
        assert process.exitcode == 0


def test_a_second_signal_stops_immediately_and_still_answers_all_requests(
    tiny_model: Path, tmp_path: Path, client: httpx.Client
) -> None:
    flags = ["--model_path", str(tiny_model), "--max_sequences", "1", "--max_queue", "60"]
    with command(tmp_path, *flags) as (process, url, output):
        with running_requests(client, url, 20) as futures:
            os.kill(process.pid, signal.SIGTERM)
            while "stopping" not in output.read_text():  # two pending signals would be delivered as one
                assert process.is_alive()
            os.kill(process.pid, signal.SIGTERM)
            start = time.monotonic()
            statuses = {future.result().status_code for future in futures}
        assert 503 in statuses
        assert statuses <= {200, 503}
        process.join(TIMEOUT)
        assert process.exitcode == 0
        assert time.monotonic() - start < 20  # draining would take up to 30 seconds


def test_a_signal_while_the_model_loads_stops_immediately(tmp_path: Path, client: httpx.Client) -> None:
    output, text = tmp_path / "output.txt", tmp_path / "text"
    os.mkfifo(text)  # loading begins with this file, and blocks because nothing is ever written to it
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = forked.start(
        "slm_serve.cli", ["--port", port, "--weights", "q8", "--weights_text", text], output=output, errors=output
    )
    try:
        end = time.monotonic() + TIMEOUT
        while True:
            with suppress(httpx.ConnectError):
                response = client.get(f"http://127.0.0.1:{port}/health/ready")
                break
            assert time.monotonic() < end, output.read_text()
        assert response.status_code == 503
        assert "loading" in response.text
        os.kill(process.pid, signal.SIGTERM)
        process.join(TIMEOUT)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
    assert "Traceback" not in output.read_text()


def test_the_app_factory_reads_the_environment(tiny_model: Path, tmp_path: Path, client: httpx.Client) -> None:
    file = tmp_path / "environment"
    file.write_text(f"SLM_MODEL_PATH={tiny_model}\nSLM_SERVED_MODEL_NAME=mine\nSLM_API_KEY=s3cret\nSLM_THREADS=1\n")
    argv = ["slm_serve.app:create_app", "--factory", "--env-file", str(file), "--port", "0", "--ws", "none"]
    argv += ["--http", "slm_serve.http.protocol:HttpProtocol"]
    output = tmp_path / "output.txt"
    process = forked.start("uvicorn.main", argv, output=output, errors=output)
    try:
        line = forked.wait_for_line(process, output, "INFO:     Uvicorn running on ", START_TIMEOUT)
        url = line.split()[4]
        end = time.monotonic() + START_TIMEOUT
        while client.get(f"{url}/health/ready").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.1)
        models = client.get(f"{url}/v1/models", headers={"Authorization": "Bearer s3cret"})
        assert [model["id"] for model in models.json()["data"]] == ["mine"]
        os.kill(process.pid, signal.SIGTERM)
        process.join(TIMEOUT)
        assert process.exitcode in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.join()


def test_a_model_that_cannot_be_loaded_ends_the_process_with_one_sentence(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert refused("--model_path", str(tmp_path)).startswith(f"slm-serve: folder {tmp_path} has neither config.json")


def test_a_port_in_use_is_reported_immediately(refused: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert refused("--port", str(port)).startswith(f"slm-serve: cannot listen on 127.0.0.1:{port}: ")


def test_a_start_that_should_be_refused_fails_its_test_instead_of_serving(
    tiny_model: Path, refused: Callable[..., str]
) -> None:
    with pytest.raises(AssertionError, match="0 == 2"):
        refused("--model_path", str(tiny_model))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_the_limit_of_open_files_is_raised_for_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    limits = [(256, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limit: limits.append(limit))
    _raise_file_limit(1000)
    assert limits[-1][0] > 1000
    assert limits[-1][1] == 4096
    _raise_file_limit(100)
    assert len(limits) == 2
    with pytest.raises(StartError, match="max_connections is 5000 and this process may open 4096 files"):
        _raise_file_limit(5000)


@pytest.mark.parametrize(
    ("host", "key", "warns"),
    [
        ("127.0.0.1", None, False),
        ("::1", None, False),
        ("localhost", None, False),
        ("0.0.0.0", None, True),
        ("0.0.0.0", "k", False),
        ("some.name", None, True),
    ],
)
def test_a_public_address_without_a_key_causes_a_warning(
    host: str, key: str | None, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_if_public(Settings(host=host, api_key=key))
    assert ("SLM_API_KEY" in caplog.text) is warns
