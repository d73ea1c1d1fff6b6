"""Settings of one run of the server benchmark."""

from dataclasses import dataclass
from typing import Any

from slm_bench.serve.cores import Cores

PAGE_SIZE = 16
STEP_TOKENS = 256  # slm-serve's default for the maximum rows of a step


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements that no flag sets: tokens of prompts and answers, clients, seconds."""

    prompt: int = 64
    new: int = 64
    overload_seconds: float = 10
    disconnects: int = 200
    abuse_seconds: float = 10  # without an attack, and of a short attack
    in_flight: int = 200  # requests when SIGTERM is sent


FULL = Sizes(overload_seconds=60, disconnects=1000)


@dataclass(frozen=True)
class Setting:
    """Settings of one run."""

    model: str  # the name that the user gave
    folder: str  # the copy of the model that all servers load
    logs: str  # folder of the servers' logs
    dtype: str
    rounds: int
    requests: int
    concurrency: int
    cores: Cores
    sizes: Sizes

    @property
    def pages(self) -> int:
        """Pages of slm-serve's pool: four times those of the requests that run concurrently."""
        return 4 * self.concurrency * -(-(self.sizes.prompt + self.sizes.new) // PAGE_SIZE)

    @property
    def capacity(self) -> int:
        """Requests that slm-serve accepts at a time: ``concurrency`` that run and as many that wait."""
        return 2 * self.concurrency

    @property
    def step_tokens(self) -> int:
        return max(STEP_TOKENS, self.concurrency)

    def as_json(self) -> dict[str, Any]:
        """Return what the result file keeps: all but the temporary folders."""
        names = ("model", "dtype", "rounds", "requests", "concurrency", "pages", "capacity")
        sizes = {"prompt_tokens": self.sizes.prompt, "new_tokens": self.sizes.new}
        cores = {"server_core": self.cores.server, "client_core": self.cores.client}
        fixed = {"adapter": None, "device": "cpu", "threads": 1}
        return {name: getattr(self, name) for name in names} | fixed | sizes | cores
