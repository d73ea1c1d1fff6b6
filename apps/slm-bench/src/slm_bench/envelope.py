"""The one form in which every benchmark writes down what it found, and how it is read again. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from slm_bench.comparison import Comparison, Row
from slm_bench.output import write
from slm_bench.promises import Promise
from slm_bench.turns import Ratio

LARGEST = 256 * 2**20  # bytes of a file that is read: no benchmark writes more
SHAPE: dict[str, type | tuple[type, ...]] = {
    "slm_bench": str,
    "benchmark": str,
    "when": str,
    "machine": dict,
    "versions": dict,
    "settings": dict,
    "results": dict,
    "promises": list,
}


class Foreign(ValueError):
    """A file that no benchmark has written, or that was damaged since; the message says why."""


@dataclass(frozen=True)
class Envelope:
    """One run of one benchmark. ``when``: ISO 8601, in UTC. ``results``: every sample; under
    ``comparisons`` the ways side by side, under ``left_out`` the peers that are not there, and why."""

    slm_bench: str
    benchmark: str
    when: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    results: Mapping[str, Any]
    promises: tuple[Promise, ...]

    @property
    def comparisons(self) -> list[Comparison]:
        """Raises Foreign where they are none."""
        return [_comparison(one) for one in self.results.get("comparisons", ())]

    @property
    def left_out(self) -> dict[str, str]:
        """Peers by name, and why each is missing."""
        return {str(name): str(why) for name, why in dict(self.results.get("left_out", {})).items()}

    @property
    def kept(self) -> bool:
        """Whether all promises held."""
        return all(promise.held for promise in self.promises)


def save(envelope: Envelope, file: str | Path) -> None:
    """Write it as JSON; a number that is none becomes null."""
    write(Path(file), json.dumps(_finite(asdict(envelope)), indent=2, allow_nan=False))


def read(file: Path) -> Envelope:
    """What a benchmark has written into ``file``. Raises Foreign, with what is wrong."""
    try:
        if file.stat().st_size > LARGEST:
            raise Foreign("too large for a benchmark's")
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, json.JSONDecodeError) as damage:
        raise Foreign(f"no JSON that can be read: {damage}") from damage
    if not isinstance(held, dict) or "slm_bench" not in held:
        raise Foreign("not written by slm-bench")
    wrong = [name for name, kind in SHAPE.items() if not isinstance(held.get(name), kind)]
    if wrong:
        raise Foreign(f"{wrong[0]!r} is missing, or not what slm-bench writes")
    try:
        envelope = Envelope(**{name: held[name] for name in SHAPE} | {"promises": _promises(held["promises"])})
        _ = envelope.comparisons, envelope.left_out, datetime.fromisoformat(envelope.when)
    except (TypeError, ValueError, KeyError, AttributeError) as damage:
        raise Foreign(f"its results are not what slm-bench writes: {damage!r}") from damage
    return envelope


def _promises(held: list[Any]) -> tuple[Promise, ...]:
    return tuple(Promise(str(one["says"]), one["held"] is True, str(one["seen"])) for one in held)


def _comparison(held: Any) -> Comparison:
    return Comparison(str(held["title"]), tuple(map(_row, held["rows"])), str(held["note"]))


def _row(held: Mapping[str, Any]) -> Row:
    ratios = {str(name): _ratio(ratio) for name, ratio in held["ratios"].items() if None not in ratio}
    figures = {str(name): figure for name, figure in held["figures"].items() if isinstance(figure, float | int | str)}
    return Row(str(held["name"]), ratios, figures)


def _ratio(held: Any) -> Ratio:
    median, least, most = (float(number) for number in held)
    if not 0 < least <= median <= most < math.inf:
        raise Foreign(f"{held} is no ratio with its spread")
    return median, least, most


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
