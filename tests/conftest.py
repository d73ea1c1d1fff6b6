"""A folder with the files that the READMEs mention, and the training runs of the wrappers in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from slm_data import harbour_stories
from slm_testing.workspace.capped_commands import capped, run
from slm_testing.workspace.readme_blocks import ROOT
from slm_testing.workspace.wrapper_lines import program_line


@pytest.fixture(scope="session")
def readme_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that README commands read."""
    folder = tmp_path_factory.mktemp("readme")
    texts = list(harbour_stories(60, seed=3))
    (folder / "texts").mkdir()
    (folder / "texts" / "mine.txt").write_text("\n\n".join(" ".join(text.split()) for text in texts))
    (folder / "my.jsonl").write_text("\n".join(json.dumps({"body": text}) for text in texts))
    turns = [{"role": "user", "content": "Who is there?"}, {"role": "assistant", "content": "A little hen."}]
    (folder / "chats.jsonl").write_text("\n".join(json.dumps({"messages": turns}) for _ in range(24)))
    (folder / "run.yaml").write_text("lora_r: 4\n")
    return folder


@pytest.fixture
def readme_folder(readme_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the current directory."""
    monkeypatch.chdir(readme_files)
    monkeypatch.setenv("SLM_CACHE", str(readme_files / "cache"))
    return readme_files


@pytest.fixture(scope="session")
def _train_wrapper(readme_files: Path) -> Iterator[Callable[[str], Path]]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SLM_CACHE", str(readme_files / "cache"))

        @cache
        def train(name: str) -> Path:
            words = capped(program_line(ROOT / "scripts" / f"{name}.sh"))
            with pytest.MonkeyPatch.context() as directory:
                directory.chdir(readme_files)
                assert run(words) == 0
            return readme_files / "outputs" / name

        yield train


@pytest.fixture
def trained(_train_wrapper: Callable[[str], Path], readme_folder: Path) -> Callable[[str], Path]:
    """Returns the run folder of a wrapper, which is trained for a few steps on the first call."""
    return _train_wrapper
