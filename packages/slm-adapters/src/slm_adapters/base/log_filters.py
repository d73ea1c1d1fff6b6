"""Filters for warnings of libraries that a user cannot act upon. No heavy imports."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_bitsandbytes() -> Iterator[None]:
    """Suppress bitsandbytes' warnings inside the block.

    Without its optional CPU kernel bitsandbytes 0.50 warns on import, and takes a slower path with the same results.
    PEFT imports it.
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
def quiet_loading_report() -> Iterator[None]:
    """Suppress transformers' table of missing and unexpected weights inside the block.

    A filter, not a level: at a raised level transformers prints more of its report, not less.
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
