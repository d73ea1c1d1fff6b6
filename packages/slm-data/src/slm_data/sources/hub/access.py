"""Datasets of the model hub; the only module that imports the ``datasets`` library."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

from slm_data.errors import DataError
from slm_data.sources.hub.errors import as_data_error, hub_error_reason
from slm_data.sources.record import Record
from slm_data.sources.text_column import DEFAULT_COLUMN, value_of

ROWS_PER_BATCH = 1024  # rows decoded at once
PROBE_TIMEOUT = 10.0  # seconds
PROBE_RETRY_DELAY = 1.0  # seconds

# When a stream breaks, the hub's client retries for 23 s, which datasets would repeat 20 times by default.
datasets.config.STREAMING_READ_MAX_RETRIES = 1
datasets.config.STREAMING_OPEN_MAX_RETRIES = 1


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the hub. ``identity`` includes its revision; ``notes`` are one-line messages for the user."""

    name: str
    identity: str
    notes: tuple[str, ...]
    _splits: Mapping[str, Any]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(map(str, self._splits))

    def check_text_column(self, split: str, requested: str | None) -> None:
        """Raise DataError if the column ``requested``, or ``text``, is missing or contains no text."""
        where = f"the dataset {self.name}, split {split},"
        columns = self.columns(split)
        column = requested or DEFAULT_COLUMN
        dtype = getattr(value_of(Record(columns, where), column), "dtype", "string")
        if dtype not in ("string", "large_string"):
            raise DataError(
                f"{where} contains {dtype} in column {column!r}, not text; "
                f"choose another with --text_column (columns: {', '.join(columns)})"
            )

    def records(self, split: str, columns: Sequence[str]) -> Iterator[Record]:
        """Yield every row of a split, in the dataset's order, with the columns that contain ``columns``.

        Args:
            split: One of ``splits``.
            columns: Names of columns, or dotted names of values within them. Those that do not exist are ignored.
        """
        available = self.columns(split)
        needed = {name if name in available else name.partition(".")[0] for name in columns}
        existing = [name for name in available if name in needed]
        rows = self._splits[split].select_columns(existing).with_format("arrow")
        number = 0
        with as_data_error(self.name):
            for batch in rows.iter(batch_size=ROWS_PER_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(row, f"the dataset {self.name}, split {split}, row {number}")

    def columns(self, split: str) -> Mapping[str, Any]:
        """Return the features by column, or the first row of a stream that does not know them."""
        with as_data_error(self.name):
            columns: Mapping[str, Any] = self._splits[split].features or next(iter(self._splits[split]), {})
            return columns


def open_dataset(name: str, *, streaming: bool = False) -> HubDataset:
    """Open ``owner/name[:config]``: downloaded to the hub's cache, or streamed over the network.

    If the hub cannot be reached, a cached copy is used and a note says so.

    Raises:
        DataError: The dataset cannot be loaded, for whatever reason.
    """
    repo, _, config = name.partition(":")
    probe_error = _probe_hub(repo)
    with as_data_error(name, probe_error), _offline_mode(probe_error is not None), _without_warnings():
        builder = _dataset_builder(repo, config or None, online=probe_error is None)
        if streaming and probe_error is None:
            splits = builder.as_streaming_dataset()
        else:
            builder.download_and_prepare()
            splits = builder.as_dataset()
    # datasets caches under owner___name/config/version/revision; with and without a network the path is the same.
    identity = "/".join(Path(builder.cache_dir).parts[-4:])
    note = f"{name}: {hub_error_reason(probe_error)}; the cached copy is used" if probe_error else None
    return HubDataset(name, identity, (note,) if note else (), splits)


def _probe_hub(repo: str) -> Exception | None:
    """Return why the hub cannot be used, or None. Sends a request with a short timeout, and a second one if it fails.

    Without this probe, the hub's client would retry for about 40 s before the datasets library uses its cache.
    """
    for delay in (PROBE_RETRY_DELAY, 0.0):
        try:
            HfApi().dataset_info(repo, timeout=PROBE_TIMEOUT, expand=["sha"])
            return None
        except (OfflineModeIsEnabled, RepositoryNotFoundError, HFValidationError) as error:
            return error
        except Exception as error:
            last_error = error
        time.sleep(delay)
    return last_error


def _dataset_builder(repo: str, config: str | None, online: bool) -> Any:
    try:
        return datasets.load_dataset_builder(repo, config)
    except ValueError as error:
        if not online:
            raise
        configs = datasets.get_dataset_config_names(repo)
        if config in configs or (config is None and len(configs) < 2):
            raise
        problem = f"has no configuration {config!r}" if config else "has several configurations"
        raise DataError(
            f"the dataset {repo} {problem}; choose one as {repo}:CONFIG, from {', '.join(configs)}"
        ) from error


@contextmanager
def _offline_mode(enabled: bool) -> Iterator[None]:
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or enabled
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the warning of datasets that a cached copy is used; HubDataset has a note instead."""
    logger = logging.getLogger("datasets")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
