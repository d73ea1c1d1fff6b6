"""Datasets of the model hub: the only file that imports the ``datasets`` library."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

from slm_data.errors import DataError
from slm_data.hub_trouble import as_data_error, reason
from slm_data.readers import pick_column

ROWS = 1024  # rows decoded at once
TIMEOUT = 10.0  # seconds for the first answer of the hub
PAUSE = 1.0  # seconds before asking a second time

# When a stream breaks, the hub's client tries again for 23 s; datasets would repeat that 20 times.
datasets.config.STREAMING_READ_MAX_RETRIES = 1
datasets.config.STREAMING_OPEN_MAX_RETRIES = 1


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the hub. ``identity`` names its revision; ``notes`` are for the user."""

    name: str
    identity: str
    notes: tuple[str, ...]
    _splits: Mapping[str, Any]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(map(str, self._splits))

    def text_column(self, split: str, wanted: str | None) -> str:
        """``wanted``, or ``text``. Raises DataError where it is missing or holds no text."""
        where = f"the dataset {self.name}, split {split},"
        with as_data_error(self.name):
            columns: Mapping[str, Any] = self._splits[split].features or next(iter(self._splits[split]), {})
        column = pick_column(list(columns), wanted, where)
        kind = getattr(columns[column], "dtype", "string")
        if kind not in ("string", "large_string"):
            raise DataError(
                f"{where} holds {kind} in column {column!r}, not text; "
                f"pick another by --text_column (columns: {', '.join(columns)})"
            )
        return column

    def texts(self, split: str, column: str) -> Iterator[str]:
        """Every text of a split, in the dataset's order; a null is an empty text."""
        rows = self._splits[split].select_columns([column]).with_format("arrow")
        with as_data_error(self.name):
            for batch in rows.iter(batch_size=ROWS):
                for text in batch.column(column).to_pylist():
                    yield text or ""


def open_dataset(name: str, *, streaming: bool = False) -> HubDataset:
    """Open ``owner/name[:config]``: downloaded to the hub's cache, or read over the network.

    Where the hub does not answer, a copy in the cache serves, and a note says so.
    Raises DataError for whatever keeps the dataset from being loaded.
    """
    repo, _, config = name.partition(":")
    trouble = _trouble(repo)
    with as_data_error(name, trouble), _offline(trouble is not None), _quiet():
        builder = _builder(repo, config or None, online=trouble is None)
        if streaming and trouble is None:
            splits = builder.as_streaming_dataset()
        else:
            builder.download_and_prepare()
            splits = builder.as_dataset()
    # The cache keeps a dataset under owner___name/config/version/revision, with or without a network.
    identity = "/".join(Path(builder.cache_dir).parts[-4:])
    note = f"{name}: {reason(trouble)}; the copy in the cache is used" if trouble else None
    return HubDataset(name, identity, (note,) if note else (), splits)


def _trouble(repo: str) -> Exception | None:
    """Why the hub does not know or does not answer: asked once in short, since datasets itself
    asks many times, at length, before it looks in the cache."""
    for pause in (PAUSE, 0.0):
        try:
            HfApi().dataset_info(repo, timeout=TIMEOUT, expand=["sha"])
            return None
        except (OfflineModeIsEnabled, RepositoryNotFoundError, HFValidationError) as error:
            return error
        except Exception as error:
            trouble = error
        time.sleep(pause)
    return trouble


def _builder(repo: str, config: str | None, online: bool) -> Any:
    try:
        return datasets.load_dataset_builder(repo, config)
    except ValueError as error:
        if not online:
            raise
        names = datasets.get_dataset_config_names(repo)
        if config in names or (config is None and len(names) < 2):
            raise
        wrong = f"has no configuration {config!r}" if config else "has several configurations"
        raise DataError(f"the dataset {repo} {wrong}; name one as {repo}:CONFIG, from {', '.join(names)}") from error


@contextmanager
def _offline(on: bool) -> Iterator[None]:
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or on
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """What datasets warns of here, a copy from the cache, is said by a note."""
    logger = logging.getLogger("datasets")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
