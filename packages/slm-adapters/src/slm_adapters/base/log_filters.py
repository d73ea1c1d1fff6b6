"""Filters for library warnings that a user can do nothing about. Imports no heavy library."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_bitsandbytes() -> Iterator[None]:
    """Suppress bitsandbytes' warnings inside the block.

    Without its optional CPU kernel, bitsandbytes 0.50 warns on import (which PEFT does) and when it uses its slower
    path, whose results are the same.
    """
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gemm_4bit.*")
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Suppress huggingface_hub's log messages below errors inside the block."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def quiet_loading_report() -> Iterator[None]:
    """Suppress transformers' table of missing and unexpected weights inside the block.

    It adds a filter, because at a higher log level transformers prints more of its report, not less.
    """
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_error)
    try:
        yield
    finally:
        logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def quiet_transformers() -> None:
    """Turn off transformers' progress bars and its messages below errors, for the rest of the process."""
    from transformers.utils import logging as transformers_logging  # heavy: this module must stay light

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
