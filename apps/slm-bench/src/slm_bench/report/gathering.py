"""Find and read result files, and group them by benchmark and machine."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_bench.errors import BenchError
from slm_bench.harness.result_file import ForeignFile, ResultFile, read_result

TRANSIENT_FACTS = ("load_average",)  # differ between runs on the same machine


@dataclass(frozen=True)
class Machine:
    """A machine that results were measured on. ``name`` is a letter by which tables refer to it."""

    name: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A result file with its machine."""

    label: str  # the machine's letter, with a number if it ran the benchmark more than once
    machine: Machine
    result: ResultFile


@dataclass(frozen=True)
class Gathered:
    """The result files that were read: machines, and runs by benchmark. ``skipped`` maps other files to the reason."""

    machines: list[Machine]
    benchmarks: dict[str, list[Run]]
    skipped: dict[str, str]


def gather(paths: Sequence[str]) -> Gathered:
    """Read all result files in ``paths``. Raises BenchError if a path does not exist or there is no result file."""
    results, skipped = list[ResultFile](), dict[str, str]()
    for file in _files(paths):
        try:
            results.append(read_result(file))
        except ForeignFile as error:
            skipped[str(file)] = str(error)
    if not results:
        reason = next((f" ({file}: {error})" for file, error in skipped.items()), "")
        raise BenchError(f"{', '.join(paths)} holds no result file{reason}; write one with --json of another command")
    results.sort(key=lambda result: (result.when, result.benchmark))
    machines: dict[str, Machine] = {}
    for result in results:
        machines.setdefault(_key(result), Machine(letters(len(machines)), _facts(result)))
    names = dict.fromkeys(result.benchmark for result in results)
    benchmarks = {name: _runs([result for result in results if result.benchmark == name], machines) for name in names}
    return Gathered(list(machines.values()), benchmarks, skipped)


def _files(paths: Sequence[str]) -> Iterator[Path]:
    """Yield each file once, even if several paths lead to it."""
    seen = set[Path]()
    for path in map(Path, paths):
        if not path.exists():
            raise BenchError(f"{path} does not exist; give a result file, or a folder that holds some")
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            if file.is_file() and file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _runs(results: Sequence[ResultFile], machines: dict[str, Machine]) -> list[Run]:
    used = [machines[_key(result)] for result in results]
    runs = []
    for position, (machine, result) in enumerate(zip(used, results, strict=True)):
        number = used[: position + 1].count(machine) if used.count(machine) > 1 else ""
        runs.append(Run(f"{machine.name}{number}", machine, result))
    return sorted(runs, key=lambda run: run.machine.name)


def _facts(result: ResultFile) -> dict[str, Any]:
    return {name: value for name, value in result.machine.items() if name not in TRANSIENT_FACTS}


def _key(result: ResultFile) -> str:
    return json.dumps(_facts(result), sort_keys=True)


def letters(number: int) -> str:
    """Return A, B ... Z, AA, AB ... for 0, 1 ..."""
    leading, last = divmod(number, 26)
    return (letters(leading - 1) if leading else "") + chr(ord("A") + last)
