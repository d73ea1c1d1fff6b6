"""Servers, models and a browser that several test modules share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slm_serve import Server, service
from slm_serve.cli import main
from slm_testing.serve.browser import Browser, running_browser
from slm_testing.serve.running_server import RunningServer, delayed, running_server
from slm_testing.serve.small_models import save_adapters, save_tiny_model
from slm_testing.serve.stub_server import BASE_AND_ADAPTER, StubServer


@pytest.fixture(autouse=True, scope="session")
def _servers_do_not_thaw_the_heap() -> Iterator[None]:
    """Leave the heap frozen as the tests have it.

    A server that stops thaws all of it, and each full collection from then on takes a third of a second.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "gc", SimpleNamespace(freeze=lambda: None, unfreeze=lambda: None))
        yield


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a LoRA (red) and a butterfly (moth) for the built-in base."""
    return save_adapters(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="session")
def server(adapters: dict[str, Path]) -> Iterator[RunningServer]:
    """A server with the built-in base and two adapters, for tests that only send requests."""
    with running_server(adapter=tuple(f"{name}={path}" for name, path in adapters.items())) as running:
        yield running


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def limited_server(tiny_model: Path) -> Iterator[RunningServer]:
    """A server with a tiny model that runs two texts at once and queues one, with low limits."""
    limits: dict[str, Any] = {"max_sequences": 2, "max_queue": 1, "max_body_bytes": 2000, "max_prompt_tokens": 200}
    limits["speculate"] = "off"  # a step gives one token
    with running_server(model_path=str(tiny_model), **limits) as running:
        yield running


@pytest.fixture
def slow_server(limited_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    """The limited server with slow steps of the engine."""
    monkeypatch.setattr(limited_server.engine, "step", delayed(limited_server.engine.step, 0.02))
    return limited_server


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run ``slm-serve``, which must end with exit code 2 before it is ready, and return its last line.

    A server that gets ready stops, so that the test fails instead of waiting for ever.
    """
    announce = Server._announce

    async def announce_and_stop(server: Server) -> None:
        await announce(server)
        server.should_exit = True

    def run(*flags: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(Server, "_announce", announce_and_stop)
            assert main(["--port", "0", "--threads", "1", *flags]) == 2
        printed = capsys.readouterr()
        assert "ready" not in printed.out
        assert "Traceback" not in printed.err
        return printed.err.splitlines()[-1]

    return run


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium."""
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def stub() -> Iterator[StubServer]:
    """A stub server with a base and an adapter."""
    stub = StubServer(BASE_AND_ADAPTER)
    yield stub
    stub.close()


@pytest.fixture
def page(browser: Browser, stub: StubServer) -> Browser:
    """The playground with its models loaded. Its local storage is empty, because each stub has another port."""
    browser.resize(1280, 800)
    browser.open(stub.address)
    browser.wait("document.querySelector('#model').value")
    return browser


@pytest.fixture
def chat(page: Browser) -> Browser:
    """The playground in chat mode."""
    page.click("[name=mode][value=chat]")
    return page
