"""The tutorials of the documentation, run from top to bottom in a new folder with small settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
from nbclient import NotebookClient

from slm_serve import Settings
from slm_testing.workspace.capped_commands import capped, run
from slm_testing.workspace.readme_blocks import ROOT, TUTORIALS, Block, blocks_of
from slm_testing.workspace.servers import serving_in_thread

SERVER = "http://localhost:8000"
FOLDER = ROOT / "docs" / "tutorials"


class TutorialRun:
    """Runs the blocks of tutorials. A server runs in a thread from its command to the end of the test."""

    def __init__(self, background: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, Any] = {}
        self.url = ""
        self._background = background
        monkeypatch.setattr("slm_serve.server.serve", self._serve)

    def run(self, name: str) -> None:
        for block in blocks_of(FOLDER / f"{name}.md"):
            if block.language == "python":
                self._execute(block)
            for words in block.commands if block.language == "bash" and not block.needs else ():
                self._run_command(words)

    def _execute(self, block: Block) -> None:
        text = "\n" * block.line + block.text.replace(SERVER, self.url)
        exec(compile(text, str(block.file), "exec"), self.names)

    def _run_command(self, words: Sequence[str]) -> None:
        if words[0] == "curl":
            url, body = (words[words.index(flag) + 1] for flag in ("curl", "-d"))
            answer = httpx.post(url.replace(SERVER, self.url), json=json.loads(body), timeout=60)
            assert answer.is_success, answer.text
        else:
            assert run(capped(words)) == 0, words

    def _serve(self, settings: Settings) -> int:
        self.url = self._background.enter_context(serving_in_thread(settings))
        return 0


@pytest.fixture
def tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TutorialRun]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "cache"))
    with ExitStack() as background:
        yield TutorialRun(background, monkeypatch)


def test_every_tutorial_is_run_here() -> None:
    names = {"chat-model", "compare-modes", "serve-and-export", "your-own-texts"}
    assert {file.stem for file in TUTORIALS} == names


def test_own_texts_are_learned_and_served(tutorial: TutorialRun, capsys: pytest.CaptureFixture[str]) -> None:
    tutorial.run("your-own-texts")
    tutorial.run("serve-and-export")
    assert "dragon: " in capsys.readouterr().out
    assert Path("outputs/mine-merged/model.safetensors").is_file()
    assert Path("exports/dragon/Modelfile").is_file()


def test_conversations_are_learned(tutorial: TutorialRun) -> None:
    tutorial.run("chat-model")
    assert json.loads(Path("outputs/chat/run.json").read_text())["status"] == "finished"


@pytest.mark.slow("seven runs of slm-train in processes of their own")
def test_modes_are_compared(tutorial: TutorialRun) -> None:
    tutorial.run("compare-modes")
    assert Path("outputs/modes/compare.html").is_file()


@pytest.mark.slow("a kernel, slm-adapters and slm-serve in processes of their own")
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(FOLDER / "first-adapter.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('"max_steps": "60"', '"max_steps": "4"')
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    *_, asked, stopped = (cell for cell in notebook.cells if cell.cell_type == "code")
    assert "first: " in printed(asked)
    assert "exit code 0" in printed(stopped)


def printed(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
