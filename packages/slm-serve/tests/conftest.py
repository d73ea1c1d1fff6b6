"""One server with the built-in base and two adapters for all that only ask it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from slm_testing.serve.browser import Browser, browsing
from slm_testing.serve.running_server import Running, running, save_adapters, save_tiny


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a LoRA (red) and a butterfly (moth) over the built-in base."""
    return save_adapters(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="session")
def server(adapters: dict[str, Path]) -> Iterator[Running]:
    named = tuple(f"{name}={path}" for name, path in adapters.items())
    with running(adapter=named) as found:
        yield found


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium."""
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found
