"""Keeps bitsandbytes from saying what no user can act upon. Imports nothing heavy."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_bitsandbytes() -> Iterator[None]:
    """Without its optional CPU kernel bitsandbytes warns and takes a slower path with the same
    results; a user can do nothing about that, so it is not worth a line. It says so when it is
    imported, and peft imports it."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gemm_4bit.*")
        try:
            yield
        finally:
            logger.setLevel(level)
