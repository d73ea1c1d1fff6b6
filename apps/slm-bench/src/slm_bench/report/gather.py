"""From files to runs: what slm-bench wrote, by benchmark and machine, and what it did not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from slm_bench.envelope import Envelope, Foreign, read
from slm_kv import KVError

PASSING = ("load_average",)  # not what makes a machine


@dataclass(frozen=True)
class Machine:
    """``name``: a letter."""

    name: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """``label``: the machine's letter, and a number where it ran the benchmark more than once."""

    label: str
    machine: Machine
    envelope: Envelope


@dataclass(frozen=True)
class Gathered:
    """Runs by benchmark, the oldest first. ``skipped``: files by name, and what is wrong with them."""

    machines: list[Machine]
    benchmarks: dict[str, list[Run]]
    skipped: dict[str, str]


def gather(paths: Sequence[str]) -> Gathered:
    """All that lies in ``paths``. Raises KVError for one that is not there, and where there is nothing."""
    found, skipped = list[Envelope](), dict[str, str]()
    for file in _files(paths):
        try:
            found.append(read(file))
        except Foreign as why:
            skipped[str(file)] = str(why)
    if not found:
        named = "; ".join(f"{file}: {why}" for file, why in list(skipped.items())[:1])
        more = f" ({named})" if named else ""
        raise KVError(f"{', '.join(paths)} holds no JSON of slm-bench{more}; --json of its commands writes some")
    found.sort(key=lambda one: (one.when, one.benchmark))
    machines = _machines(found)
    names = dict.fromkeys(one.benchmark for one in found)
    benchmarks = {name: _runs([one for one in found if one.benchmark == name], machines) for name in names}
    return Gathered(list(machines.values()), benchmarks, skipped)


def _files(paths: Sequence[str]) -> Iterator[Path]:
    """Each once."""
    seen = set[Path]()
    for path in map(Path, paths):
        if not path.exists():
            raise KVError(f"{path} does not exist; give a JSON file of slm-bench, or a folder that holds some")
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            if file.is_file() and file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _machines(found: Iterable[Envelope]) -> dict[str, Machine]:
    """By what they are, in the order in which they were first used."""
    machines, names = dict[str, Machine](), map(letters, count())
    for one in found:
        if (key := _key(one)) not in machines:
            machines[key] = Machine(next(names), _facts(one))
    return machines


def _runs(found: Sequence[Envelope], machines: dict[str, Machine]) -> list[Run]:
    each = [machines[_key(one)] for one in found]
    runs = []
    for at, (machine, one) in enumerate(zip(each, found, strict=True)):
        number = each[: at + 1].count(machine) if each.count(machine) > 1 else ""
        runs.append(Run(f"{machine.name}{number}", machine, one))
    return sorted(runs, key=lambda run: run.machine.name)


def _facts(one: Envelope) -> dict[str, Any]:
    return {name: value for name, value in one.machine.items() if name not in PASSING}


def _key(one: Envelope) -> str:
    return json.dumps(_facts(one), sort_keys=True)


def letters(number: int) -> str:
    """A, B ... Z, AA, AB ..."""
    more, last = divmod(number, 26)
    return (letters(more - 1) if more else "") + chr(ord("A") + last)
