"""Waiting for a condition."""

import time
from collections.abc import Callable
from typing import Any

TIMEOUT = 60  # seconds for a response, and for anything else that should happen soon


def wait_until(condition: Callable[[], Any], seconds: float = TIMEOUT) -> None:
    """Wait until ``condition()`` is true; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition was not met within {seconds} seconds"
        time.sleep(0.01)
