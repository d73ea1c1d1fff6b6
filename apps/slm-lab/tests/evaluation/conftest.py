"""Fixtures of the tests of ``slm-lab eval``: a tiny base with two adapters, and local tasks."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm_lab.cli import main
from slm_testing.lab.local_tasks import KINDS, story_examples, write_task
from slm_testing.serve.small_models import BUTTERFLY, lora_config, save_adapter, save_base

ADAPTERS = {"lora": lora_config(), "butterfly": BUTTERFLY}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base."""
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def adapter_folders(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, Path]:
    """Folders of a LoRA and a butterfly on the tiny base."""
    folder = tmp_path_factory.mktemp("adapters")
    return {mode: save_adapter(folder / mode, tiny_folder, config) for mode, config in ADAPTERS.items()}


@pytest.fixture
def runs(tmp_path: Path, adapter_folders: dict[str, Path], tiny_folder: Path) -> list[Path]:
    """Run folders with these adapters."""
    for mode, folder in adapter_folders.items():
        shutil.copytree(folder, tmp_path / mode)
        (tmp_path / mode / "run.json").write_text(json.dumps({"mode": mode, "base": str(tiny_folder)}))
    return [tmp_path / mode for mode in adapter_folders]


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task of each kind of request: ``stories_choice`` ..."""
    folder = tmp_path_factory.mktemp("tasks")
    for kind in KINDS:
        write_task(folder, f"stories_{kind}", kind, story_examples(6))
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fail each connection, and keep the caches of datasets out of the user's."""

    def refuse(*address: object) -> None:
        raise AssertionError(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run ``slm-lab eval`` in an empty folder, in float32, and return its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> int:
        return main(["eval", *map(str, words), "--dtype", "float32", "--threads", "1"])

    return run


@pytest.fixture
def read_results() -> Callable[[Path], dict[str, Any]]:
    """Read the eval.json in a folder."""
    return lambda folder: json.loads((folder / "eval.json").read_text(encoding="utf-8"))
