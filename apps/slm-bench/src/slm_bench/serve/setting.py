"""What one run asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slm_bench.serve.cores import Cores

PAGE_SIZE = 16
STEP_TOKENS = 256  # rows of a step at most: its own default


@dataclass(frozen=True)
class Sizes:
    """How much the measurements ask for, beside the flags."""

    prompt: int = 64
    new: int = 64
    overload_seconds: float = 10
    disconnects: int = 200
    in_flight: int = 200  # requests at SIGTERM


FULL = Sizes(overload_seconds=60, disconnects=1000)


@dataclass(frozen=True)
class Setting:
    """``model``: as the user named it; ``folder``: where it lies for all servers; ``logs``: where they write."""

    model: str
    folder: str
    logs: str
    dtype: str
    rounds: int
    requests: int
    concurrency: int
    cores: Cores
    sizes: Sizes

    @property
    def pages(self) -> int:
        """Pages of the pool: four times what runs at once."""
        return 4 * self.concurrency * -(-(self.sizes.prompt + self.sizes.new) // PAGE_SIZE)

    @property
    def capacity(self) -> int:
        """Requests that slm-serve takes in at once: as many may wait as run."""
        return 2 * self.concurrency

    @property
    def described(self) -> dict[str, Any]:
        """All of it but the folders."""
        return {
            "model": self.model,
            "adapter": None,
            "dtype": self.dtype,
            "device": "cpu",
            "threads": 1,
            "rounds": self.rounds,
            "requests": self.requests,
            "concurrency": self.concurrency,
            "prompt_tokens": self.sizes.prompt,
            "new_tokens": self.sizes.new,
            "pages": self.pages,
            "capacity": self.capacity,
            "server_core": self.cores.server,
            "client_core": self.cores.client,
        }
