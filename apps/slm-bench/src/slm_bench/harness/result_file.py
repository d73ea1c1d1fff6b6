"""Result files: the JSON that ``--json`` of every command writes, and how it is validated when read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from slm_bench.errors import BenchError
from slm_bench.harness.comparison import Comparison
from slm_bench.harness.guarantees import Guarantee

MAX_BYTES = 256 * 2**20  # no benchmark writes a larger file


class ForeignFile(BenchError):
    """A file that slm-bench did not write, or that was damaged since; the message says what is wrong."""


@dataclass
class Findings:
    """What a benchmark has measured so far.

    ``samples`` maps JSON keys to samples, ``left_out`` the names of peers that were not measured to the reason.
    """

    samples: dict[str, Any] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    guarantees: list[Guarantee] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, samples: Any, *compared: Comparison, guarantees: Sequence[Guarantee] = ()) -> None:
        """Add one measurement: its samples under ``key``, comparisons and guarantees."""
        self.samples[key] = samples
        self.comparisons += compared
        self.guarantees += guarantees


class Results(BaseModel):
    """Comparisons, peers that were left out with the reason, and every sample under further keys."""

    model_config = ConfigDict(extra="allow", frozen=True)

    comparisons: list[Comparison] = []
    left_out: dict[str, str] = {}


def _iso_8601(when: str) -> str:
    datetime.fromisoformat(when)
    return when


class ResultFile(BaseModel):
    """One run of one benchmark. Field names, or their aliases, are the keys of the JSON file."""

    model_config = ConfigDict(populate_by_name=True, frozen=True)

    slm_bench: str  # version
    benchmark: str
    when: Annotated[str, AfterValidator(_iso_8601)]  # UTC
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    results: Results
    guarantees: tuple[Guarantee, ...] = Field(alias="promises")

    @property
    def guarantees_kept(self) -> int:
        return sum(guarantee.holds for guarantee in self.guarantees)

    @property
    def guarantees_summary(self) -> str:
        """How many guarantees were kept; empty if the benchmark makes none."""
        return f"{self.guarantees_kept} of {len(self.guarantees)} kept" if self.guarantees else ""


def save_result(result: ResultFile, file: Path) -> None:
    """Write ``result`` as JSON; NaN and infinity become null."""
    write_text(file, result.model_dump_json(indent=2, by_alias=True))


def read_result(file: Path) -> ResultFile:
    """Read a result file.

    Raises:
        ForeignFile: It is not a valid result file; the message names the first wrong key.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ForeignFile(f"larger than {MAX_BYTES // 2**20} MiB, so not written by slm-bench")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise ForeignFile(f"not readable as JSON: {error}") from error
    if not isinstance(content, dict) or "slm_bench" not in content:
        raise ForeignFile("not written by slm-bench")
    try:
        return ResultFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ForeignFile(f"{key} is not what slm-bench writes: {first['msg']}") from error


def write_text(file: Path, text: str) -> None:
    """Write ``text`` and a final newline to ``file``; create its folder if necessary."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")
