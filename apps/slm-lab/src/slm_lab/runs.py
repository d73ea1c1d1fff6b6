"""Run folders, read: what a run was, and what it came to. A record may come from another machine, or be damaged."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUN, METRICS, COMMAND = "run.json", "metrics.jsonl", "lab.json"
WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model-*.safetensors")


class Damaged(Exception):
    """Why a record cannot be read, in a few words."""


@dataclass(frozen=True)
class Quality:
    """Of one evaluation: perplexity and bits per byte on held-out text."""

    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True)
class Run:
    """What run.json says; None is what it does not say, or not yet. Sizes are in bytes."""

    name: str
    folder: Path
    mode: str
    status: str
    base: str
    dataset: str
    flow: str
    seed: int | None = None
    before: Quality | None = None
    after: Quality | None = None
    trainable: float | None = None
    total: float | None = None
    weights: float | None = None
    gradients: float | None = None
    optimizer: float | None = None
    peak: float | None = None
    memory_kind: str = "memory"
    steps: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    device: str = ""
    threads: int | None = None
    validation: str = ""  # fingerprint of the held-out texts
    block_size: float | None = None
    samples: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def bits(self, when: str) -> float | None:
        """Bits per byte ``before`` or ``after`` training."""
        found: Quality | None = getattr(self, when)
        return None if found is None else found.bits_per_byte

    def perplexity(self, when: str) -> float | None:
        """As ``bits``."""
        found: Quality | None = getattr(self, when)
        return None if found is None else found.perplexity

    @property
    def finished(self) -> bool:
        return self.status == "finished" and self.before is not None and self.after is not None


@dataclass(frozen=True)
class Moment:
    """A point of a learning curve."""

    step: int
    bits_per_byte: float
    tokens: float | None
    seconds: float | None


def read_run(folder: Path, name: str | None = None) -> Run:
    """The run in ``folder``. Raises Damaged for a record that is none."""
    try:
        record = json.loads((folder / RUN).read_text(encoding="utf-8"))
        return _run(record, folder, folder.name if name is None else name)
    except OSError as trouble:
        raise Damaged(f"it cannot be read ({trouble.strerror})") from trouble
    except (ValueError, RecursionError) as trouble:
        raise Damaged("it is not valid JSON") from trouble
    except (TypeError, KeyError, AttributeError) as trouble:
        raise Damaged(f"it is no record of slm-train ({type(trouble).__name__}: {trouble})") from trouble


def _run(record: Mapping[str, Any], folder: Path, name: str) -> Run:
    arguments, device = record.get("arguments", {}), record.get("device", {})
    parameters, memory, speed = (record.get(part, {}) for part in ("parameters", "memory", "speed"))
    validation = record.get("data", {}).get("validation", {})
    evaluation = record.get("evaluation", {})
    return Run(
        name=name,
        folder=folder,
        mode=str(record["mode"]),
        status=str(record["status"]),
        base=str(record.get("base") or "a new model"),
        dataset=str(record.get("dataset", "")),
        flow=str(record.get("flow", "trainer")),
        seed=None if (seed := _number(arguments, "seed")) is None else int(seed),
        before=_quality(evaluation, "before"),
        after=_quality(evaluation, "after"),
        trainable=_number(parameters, "trainable"),
        total=_number(parameters, "total"),
        **{part: _number(memory, part) for part in ("weights", "gradients", "optimizer", "peak")},
        memory_kind=str(memory.get("kind", "memory")),
        steps=_number(speed, "steps"),
        tokens=_number(speed, "tokens"),
        seconds=_number(speed, "train_seconds"),
        tokens_per_second=_number(speed, "tokens_per_second"),
        device=str(device.get("name", "")),
        threads=None if (threads := _number(device, "threads")) is None else int(threads),
        validation=str(validation.get("fingerprint", "")),
        block_size=_number(validation, "block_size"),
        samples={str(when): str(text) for when, text in record.get("samples", {}).items()},
        versions={str(of): str(number) for of, number in record.get("versions", {}).items()},
        machine=dict(record.get("machine", {})),
        arguments=dict(arguments),
    )


def _quality(evaluation: Mapping[str, Any], when: str) -> Quality | None:
    if when not in evaluation:
        return None
    found = evaluation[when]
    return Quality(float(found["perplexity"]), float(found["bits_per_byte"]))


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def find_runs(root: Path) -> Iterator[Path]:
    """Folders with a run.json under ``root``, itself too, in order. Links are followed, no folder is seen twice."""
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        own = os.stat(place)
        if (own.st_dev, own.st_ino) in seen:
            folders.clear()
            continue
        seen.add((own.st_dev, own.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "checkpoint-")))
        if RUN in files:
            yield Path(place)


def curve(folder: Path) -> tuple[Moment, ...]:
    """The evaluations of metrics.jsonl, one a step; lines that a crash cut short are passed over."""
    lines: dict[int, dict[str, Any]] = {}
    for line in _lines(folder / METRICS):
        step = _number(line, "step")
        if step is not None:
            lines.setdefault(int(step), {}).update(line)
    found = []
    for step, line in sorted(lines.items()):
        bits = _number(line, "eval_bits_per_byte")
        if bits is not None:
            tokens = 0.0 if step == 0 else _number(line, "tokens")
            found.append(Moment(step, bits, tokens, _number(line, "seconds")))
    return tuple(found)


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # copied without its log
        return
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def shipped_bytes(folder: Path) -> float | None:
    """Of the weight files that serving needs: the adapter, or the whole model."""
    files = [file for pattern in WEIGHTS for file in folder.glob(pattern)]
    return float(sum(file.stat().st_size for file in files)) if files else None


def checkpoint_bytes(folder: Path) -> float | None:
    """Of the largest checkpoint there; all are of one size."""
    of_steps = [file.stat().st_size for file in folder.glob("dynamic_checkpoint.pt")]
    of_trainer = [_size(path) for path in folder.glob("checkpoint-*") if path.is_dir()]
    return float(max([*of_steps, *of_trainer])) if of_steps or of_trainer else None


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def command_of(folder: Path) -> tuple[str, ...] | None:
    """The words after ``slm-train`` that slm-lab started the run with; None where something else did."""
    try:
        return tuple(str(word) for word in json.loads((folder / COMMAND).read_text(encoding="utf-8"))["argv"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
