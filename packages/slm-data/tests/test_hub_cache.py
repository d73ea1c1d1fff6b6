"""Whether a dataset will be downloaded, without a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from slm_data import DataError, SourceOptions, find_missing_dataset


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "repository"), [("tinystories", "roneneldan/TinyStories"), ("someone/texts:small", "someone/texts")]
)
def test_a_dataset_is_downloaded_unless_it_is_in_the_cache(hub_cache: Path, name: str, repository: str) -> None:
    assert find_missing_dataset(SourceOptions(dataset=name)) == repository
    (hub_cache / f"datasets--{repository.replace('/', '--')}" / "snapshots").mkdir(parents=True)
    assert find_missing_dataset(SourceOptions(dataset=name)) is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        *({"dataset": name} for name in ("sample", "harbour", "Harbour")),
        {"train_file": ["my.txt"]},
        {"dataset": "tinystories", "streaming": True},
    ],
)
def test_nothing_else_is_downloaded(options: dict[str, Any]) -> None:
    assert find_missing_dataset(SourceOptions(**options)) is None


def test_nothing_is_downloaded_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_missing_dataset(SourceOptions(dataset="tinystories")) is None


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(DataError, match="did you mean tinystories"):
        find_missing_dataset(SourceOptions(dataset="tinystorys"))
