"""Real client packages, each in an environment of its own, against a running server.

The Python clients are scripts with their requirements in the first lines, run by ``uv run``; those for Node.js are
installed by npm. Run them with ``uv run pytest -n 0 -m slow tests/clients``.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from slm_adapters import load
from slm_testing.serve.running_server import RunningServer, running_server

FOLDER = Path(__file__).parent
SECONDS = 600  # of which most pass with downloads
MODEL = "stories"
PYTHON_CLIENTS = sorted(path for path in (FOLDER / "python").glob("*_client.py"))
NODE_CLIENTS = sorted((FOLDER / "node").glob("*_client.js"))
pytestmark = pytest.mark.slow("installs the packages of eleven clients")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of the built-in base with a chat template that knows tools."""
    folder = tmp_path_factory.mktemp("model")
    loaded = load("sample")
    loaded.tokenizer.chat_template = (FOLDER / "tool_template.jinja").read_text()
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    with running_server(model_path=str(folder), served_model_name=MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts for Node.js with their packages installed."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(FOLDER / "node", folder, dirs_exist_ok=True)
    _run("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", cwd=folder)
    return folder


@pytest.mark.parametrize("script", PYTHON_CLIENTS, ids=lambda path: path.stem)
def test_a_python_client_works(script: Path, server: RunningServer) -> None:
    _run("uv", "run", "--no-project", "--quiet", str(script), f"{server.url}/v1", MODEL, cwd=FOLDER)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
@pytest.mark.parametrize("script", NODE_CLIENTS, ids=lambda path: path.stem)
def test_a_node_client_works(script: Path, server: RunningServer, node_folder: Path) -> None:
    _run("node", script.name, f"{server.url}/v1", MODEL, cwd=node_folder)


def _run(*command: str, cwd: Path) -> None:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
