"""All commands of the root README, run in order in a new folder, with the caps of the tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from slm_testing.workspace.capped_commands import capped_line
from slm_testing.workspace.readme_blocks import ROOT, Block, blocks_of
from slm_testing.workspace.servers import serving

README = [block for block in blocks_of(ROOT / "README.md", "bash") if not block.needs]


def run_block(block: Block) -> None:
    """Run the commands in order; a server runs in the background until the end of the block."""
    with ExitStack() as background:
        url = ""
        for words in block.commands:
            if words[0] == "curl":
                run_curl([word.replace("http://localhost:8000", url) for word in words])
            elif "slm-serve" in words:
                url = background.enter_context(serving(capped_line(words, hub_answers())))
            else:
                run_command(capped_line(words, hub_answers()))


def run_curl(words: Sequence[str]) -> None:
    result = subprocess.run([*words, "--silent", "--show-error", "--fail-with-body"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert '"text":' in result.stdout or '"content":' in result.stdout


def run_command(words: Sequence[str]) -> None:
    program = str(ROOT / words[0]) if words[0].startswith("scripts/") else words[0]
    result = subprocess.run([program, *words[1:]], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, f"{' '.join(words)}\n{result.stdout}\n{result.stderr}"


def hub_answers() -> bool:
    """Return whether a hub provides models and datasets."""
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        return bool(endpoint) and httpx.get(f"{endpoint}/api/models/distilbert/distilgpt2", timeout=5).is_success
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_order(readme_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PROJECT", str(ROOT))
    monkeypatch.setenv("UV_NO_SYNC", "1")
    for block in README:
        print(block.name, flush=True)
        run_block(block)
