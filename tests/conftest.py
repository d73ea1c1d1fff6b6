"""A folder with what the READMEs name, and the runs that the wrappers leave there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from slm_data import sample_stories as stories
from slm_testing.workspace.capped_commands import capped, run
from slm_testing.workspace.readme_blocks import ROOT
from slm_testing.workspace.wrapper_lines import program_line


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that commands of the READMEs name."""
    folder = tmp_path_factory.mktemp("stranger")
    texts = list(stories(60, seed=3))
    (folder / "texts").mkdir()
    (folder / "texts" / "mine.txt").write_text("\n\n".join(" ".join(text.split()) for text in texts))
    (folder / "my.jsonl").write_text("\n".join(json.dumps({"body": text}) for text in texts))
    (folder / "run.yaml").write_text("lora_r: 4\n")
    return folder


@pytest.fixture
def workplace(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, and here."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("SLM_CACHE", str(made / "cache"))
    return made


@pytest.fixture(scope="session")
def _train_once(made: Path) -> Iterator[Callable[[str], Path]]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SLM_CACHE", str(made / "cache"))

        @cache
        def train(name: str) -> Path:
            words = capped(program_line(ROOT / "scripts" / f"{name}.sh"))
            with pytest.MonkeyPatch.context() as here:
                here.chdir(made)
                assert run(words) == 0
            return made / "outputs" / name

        yield train


@pytest.fixture
def trained(_train_once: Callable[[str], Path], workplace: Path) -> Callable[[str], Path]:
    """The run folder of a wrapper, trained for a few steps when first asked for."""
    return _train_once
