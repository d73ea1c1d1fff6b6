"""The real ``slm-serve``: how it starts, how it is told to stop, what it refuses."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

import slm_testing.forked as forked
from slm_serve import Settings
from slm_serve.cli import main
from slm_serve.server import _warn_if_open
from slm_testing.serve.running_server import PATIENCE

STARTING = 180  # seconds for the imports and the model of a process beside others
LONG = 450  # new tokens, of the 512 that the tiny model has room for


@contextmanager
def command(folder: Path, *flags: str) -> Iterator[tuple[Any, str, Path]]:
    """The process once it is ready, its address, and the file of what it says."""
    said = folder / "said.txt"
    told = ["--port", "0", "--threads", "1", *flags]
    process = forked.start("slm_serve.cli", told, said=said, errors=said)
    try:
        ready = forked.wait_for_line(process, said, "ready: ", STARTING)
        yield process, ready.removeprefix("ready: "), said
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """One for all requests: a client takes longer to make than a tiny model to answer."""
    with httpx.Client(timeout=PATIENCE, limits=httpx.Limits(max_connections=50)) as found:
        yield found


@contextmanager
def asked(client: httpx.Client, url: str, times: int) -> Iterator[list[Future[httpx.Response]]]:
    """So many requests, each in its thread, once all of them run or wait. None has ended by then."""
    body = {"prompt": "a b c", "max_new_tokens": LONG, "temperature": 0}
    with ThreadPoolExecutor(times) as threads:
        futures = [threads.submit(client.post, f"{url}/generate", json=body) for _ in range(times)]
        end = time.monotonic() + PATIENCE
        while busy(client, url) < times:
            assert time.monotonic() < end
        yield futures


def busy(client: httpx.Client, url: str) -> int:
    text = client.get(f"{url}/metrics").text
    return sum(int(float(value)) for value in re.findall(r"^slm_(?:running|queue) (\S+)$", text, re.MULTILINE))


def test_sigterm_loses_none_of_what_runs_or_waits_and_lets_nothing_in(
    tiny: Path, tmp_path: Path, client: httpx.Client
) -> None:
    flags = ["--model_path", str(tiny), "--max_sequences", "16", "--max_queue", "60"]
    with command(tmp_path, *flags) as (process, url, file):
        said = file.read_text().splitlines()
        assert any(line.startswith("models: model (base)") for line in said)
        assert any(re.match(r"pool: 512 pages .* MB", line) for line in said)
        assert any("on cpu" in line and "threads: 1" in line for line in said)
        with asked(client, url, 40) as futures:
            os.kill(process.pid, signal.SIGTERM)
            answers = [one.result() for one in futures]
        assert [answer.status_code for answer in answers] == [200] * 40
        assert {answer.json()["completion_tokens"] for answer in answers} == {LONG}
        process.join(PATIENCE)
        assert process.exitcode == 0
        with pytest.raises(httpx.ConnectError):
            client.get(f"{url}/health/live")


def test_what_is_not_finished_in_time_gets_504(tiny: Path, tmp_path: Path, client: httpx.Client) -> None:
    flags = ["--model_path", str(tiny), "--max_sequences", "1", "--max_queue", "60", "--drain_timeout", "0.2"]
    with command(tmp_path, *flags) as (process, url, _):
        with asked(client, url, 20) as futures:
            os.kill(process.pid, signal.SIGTERM)
            statuses = {one.result().status_code for one in futures}
        assert 504 in statuses
        assert statuses <= {200, 504}
        process.join(PATIENCE)
        assert process.exitcode == 0


def test_a_second_signal_ends_at_once_and_still_answers(tiny: Path, tmp_path: Path, client: httpx.Client) -> None:
    flags = ["--model_path", str(tiny), "--max_sequences", "1", "--max_queue", "60"]
    with command(tmp_path, *flags) as (process, url, file):
        with asked(client, url, 20) as futures:
            os.kill(process.pid, signal.SIGTERM)
            while "stopping" not in file.read_text():  # two signals at once would count as one
                assert process.is_alive()
            os.kill(process.pid, signal.SIGTERM)
            start = time.monotonic()
            statuses = {one.result().status_code for one in futures}
        assert 503 in statuses
        assert statuses <= {200, 503}
        process.join(PATIENCE)
        assert process.exitcode == 0
        assert time.monotonic() - start < 20  # draining has 30 seconds


def test_a_signal_while_the_model_loads_is_not_waited_with(tmp_path: Path, client: httpx.Client) -> None:
    said, text = tmp_path / "said.txt", tmp_path / "text"
    os.mkfifo(text)  # loading reads it first, and waits for a writer who never comes
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = forked.start("slm_serve.cli", ["--port", port, "--int8", text], said=said, errors=said)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            with suppress(httpx.ConnectError):
                answer = client.get(f"http://127.0.0.1:{port}/health/ready")
                break
            assert time.monotonic() < end, said.read_text()
        assert answer.status_code == 503
        assert "loading" in answer.text
        os.kill(process.pid, signal.SIGTERM)
        process.join(PATIENCE)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
    assert "Traceback" not in said.read_text()


def test_the_factory_reads_the_environment(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text(f"SLM_MODEL_PATH={tiny}\nSLM_SERVED_MODEL_NAME=mine\nSLM_API_KEY=s3cret\nSLM_THREADS=1\n")
    told = [sys.executable, "-m", "uvicorn", "slm_serve.app:create_app", "--factory", "--env-file", str(file)]
    with subprocess.Popen([*told, "--port", "0"], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            url = next(found[0] for line in process.stderr if (found := re.findall(r"http://\S+", line)))
            end = time.monotonic() + STARTING
            while httpx.get(f"{url}/health/ready", timeout=PATIENCE).status_code != 200:
                assert time.monotonic() < end
                time.sleep(0.5)
            models = httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer s3cret"}, timeout=PATIENCE)
            assert [one["id"] for one in models.json()["data"]] == ["mine"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
        finally:
            process.kill()


def test_a_model_that_cannot_be_loaded_ends_it_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--port", "0", "--model_path", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(f"slm-serve: folder {tmp_path} has neither config.json")
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_known_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(f"slm-serve: cannot listen on 127.0.0.1:{port}: ")


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [
        ("127.0.0.1", None, False),
        ("::1", None, False),
        ("localhost", None, False),
        ("0.0.0.0", None, True),
        ("0.0.0.0", "k", False),
        ("some.name", None, True),
    ],
)
def test_an_open_address_without_a_key_is_warned_of(
    host: str, key: str | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_if_open(Settings(host=host, api_key=key))
    assert ("SLM_API_KEY" in caplog.text) is warned


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--port", "70000"], "port: Input should be less than or equal to 65535"),
        (["--max_pages", "0"], "max_pages: Input should be greater than or equal to 1"),
        (["--adapter", "nameless"], "adapter: 'nameless' is not name=path"),
        (["--adapter", "a b=c"], "adapter: 'a b' is no name"),
        (["--adapter", "a=b", "--adapter", "a=c"], "two adapters have one name (a, a); rename one"),
        (["--api_key", " "], "api_key: is empty"),
        (["--request_timeout", "0"], "request_timeout: Input should be greater than 0"),
    ],
)
def test_a_senseless_flag_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], flags: Sequence[str], sentence: str
) -> None:
    assert main(flags) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"slm-serve: {sentence}")
    assert said.count("\n") == 1


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(f"--{name}" in said for name in Settings.model_fields)
