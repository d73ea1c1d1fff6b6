"""Runs the checks of a client script: ``script.py URL MODEL``, where URL is that of the API, with ``/v1``."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

KEY = "key"  # the server requires none, but most clients do
QUESTION = "What should I pack for a walk in the rain?"


class Weather(BaseModel):
    """A weather report, with bounds that a model of any quality reaches in a few tokens."""

    model_config = ConfigDict(extra="forbid")  # with more fields the object may have no end

    sky: Literal["clear", "cloudy", "rain"]
    degrees: int = Field(ge=-30, le=50)


# The schema is short, because the built-in model has a context of 512 tokens.
PARAMETERS = {
    "type": "object",
    "properties": {
        "sky": {"enum": ["clear", "cloudy", "rain"]},
        "degrees": {"type": "integer", "maximum": 50, "minimum": 0},
    },
    "required": ["sky", "degrees"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Report the weather.", "parameters": PARAMETERS},
}


def run(*checks: Callable[[str, str], Any]) -> None:
    """Call ``checks`` with the URL and the model, and print the name of each that passed."""
    url, model = sys.argv[1:]
    for check in checks:
        result = check(url, model)
        if inspect.isawaitable(result):
            asyncio.run(_wait(result))
        print(f"passed: {check.__name__}", flush=True)


async def _wait(awaitable: Any) -> None:
    await awaitable
