"""Results of parts: what they contain, and their JSON files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["passed", "failed", "skipped"]
FORMAT = 1
RUNNING = "running"  # the status of a part that has not ended


class ResultError(ValueError):
    """A result file cannot be read; the message says why."""


@dataclass(frozen=True)
class Claim:
    """The verdict on a claim, and what was observed, or why it was skipped."""

    verdict: Verdict
    observed: str


@dataclass(frozen=True)
class Table:
    """Figures, formatted as text."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass
class PartResult:
    """The result of a part; field names are the keys of its JSON file.

    Attributes:
        part: The part's name.
        status: ``passed``, ``failed``, ``skipped``, or ``running`` while it runs.
        reason: Why it failed or was skipped.
        seconds: How long it took.
        small: Whether sizes were those for a CPU, which prove nothing about speed.
        provenance: Device, versions, commit and time.
        claims: Verdicts by the keys of the registry.
        tables: Figures.
    """

    part: str
    status: str = RUNNING
    reason: str = ""
    seconds: float = 0.0
    small: bool = False
    provenance: dict[str, str] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)

    def conclude(self) -> None:
        """Set the status by the verdicts: failed if any failed, skipped if there are no others."""
        failed = [f"{key}: {claim.observed}" for key, claim in self.claims.items() if claim.verdict == "failed"]
        all_skipped = bool(self.claims) and all(claim.verdict == "skipped" for claim in self.claims.values())
        self.status = "failed" if failed else "skipped" if all_skipped else "passed"
        reasons = dict.fromkeys(claim.observed for claim in self.claims.values()) if all_skipped else failed
        self.reason = "; ".join(reasons)

    def save(self, file: Path) -> None:
        """Write the JSON file: complete or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".writing")
        temporary.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, file)


def read_result(file: Path) -> PartResult:
    """Read a result file. Raises ResultError if it is not one."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ResultError(f"{file} has another format than {FORMAT}; render it with the version that wrote it")
        content["claims"] = {key: Claim(**claim) for key, claim in content["claims"].items()}
        content["tables"] = [Table(**table) for table in content["tables"]]
        return PartResult(**content)
    except ResultError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ResultError(f"{file} is not a result of gpu_check ({type(error).__name__}: {error})") from error


def read_results(folder: Path, names: Sequence[str]) -> dict[str, PartResult]:
    """Read the results of the parts ``names`` that are in ``folder``.

    Raises:
        ResultError: The folder does not exist, or a file in it is not a result.
    """
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder; give the one that gpu_check --out wrote")
    files = {name: folder / f"{name}.json" for name in names}
    return {name: read_result(file) for name, file in files.items() if file.exists()}
