"""Finished training runs in a file of JSON lines, so that an interrupted measurement continues where it stopped."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slm_bench.errors import BenchError


@dataclass(frozen=True)
class Run:
    """Losses after training, in nats per predicted token; infinite if the run diverged."""

    held_out: float
    own: float | None  # on the texts that the base was trained on


class RunStore:
    """Runs by everything that they depend on. Without a file, runs are kept in memory only."""

    def __init__(self, file: str | None):
        self.file = Path(file) if file else None
        self.runs = _read(self.file) if self.file and self.file.exists() else dict[str, Run]()

    def get(self, identity: Mapping[str, Any], make: Callable[[], Run]) -> Run:
        """Return the run with this ``identity``, made and stored now if there is none."""
        text = json.dumps(identity, sort_keys=True, default=str)
        key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        if key not in self.runs:
            self.runs[key] = make()
            self._append({"key": key, "run": asdict(self.runs[key]), **identity})
        return self.runs[key]

    def _append(self, line: Mapping[str, Any]) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, default=str) + "\n")


def _read(file: Path) -> dict[str, Run]:
    """Return the runs in ``file``. An incomplete last line, left by a process that was killed, is cut off."""
    content = file.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        file.write_bytes(complete)
    runs = {}
    for number, line in enumerate(complete.splitlines(), 1):
        try:
            record = json.loads(line)
            runs[record["key"]] = Run(**record["run"])
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"--runs {file}: line {number} is not a run of slm-bench; use another file") from error
    return runs
