"""The README typed by a stranger, from top to bottom, in a folder of their own; small, by the caps of the tests."""

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


def type_in(block: Block) -> None:
    """Each command in its turn, the one that serves in the background until the block is done."""
    with ExitStack() as background:
        url = ""
        for words in block.commands:
            if words[0] == "curl":
                ask([word.replace("http://localhost:8000", url) for word in words])
            elif "slm-serve" in words:
                url = background.enter_context(serving(capped_line(words, hub_answers())))
            else:
                carry_out(capped_line(words, hub_answers()))


def ask(words: Sequence[str]) -> None:
    done = subprocess.run([*words, "--silent", "--show-error", "--fail-with-body"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"text":' in done.stdout


def carry_out(words: Sequence[str]) -> None:
    program = str(ROOT / words[0]) if words[0].startswith("scripts/") else words[0]
    done = subprocess.run([program, *words[1:]], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"


def hub_answers() -> bool:
    """Whether there is a hub to take models and datasets from."""
    where = os.environ.get("HF_ENDPOINT")
    try:
        return bool(where) and httpx.get(f"{where}/api/models/distilbert/distilgpt2", timeout=5).is_success
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_every_command_of_the_readme_runs_in_its_turn(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PROJECT", str(ROOT))
    monkeypatch.setenv("UV_NO_SYNC", "1")
    for block in README:
        print(block.name, flush=True)
        type_in(block)
