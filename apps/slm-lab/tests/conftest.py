"""Run folders as slm-train leaves them, made without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from slm_lab.cli import main
from slm_lab.comparison import Comparison
from slm_lab.figures import Mode, Outcome
from slm_lab.runs import checkpoint_bytes, curve, read_run, shipped_bytes

TRAINABLE = {"baseline": 5_000_000, "lora": 400_000, "qlora": 400_000, "butterfly": 40_000, "butterfly_block": 20_000}


def record(mode: str = "lora", *, bits: float = 1.2, seed: int = 42, **changes: Any) -> dict[str, Any]:
    """A run.json. ``bits``: bits per byte after training; ``changes`` to its first level."""
    trainable = TRAINABLE.get(mode, 1000)
    looks = {"before": 2.0, "after": bits}
    evaluation = {when: {"perplexity": 2 ** (3 * of), "bits_per_byte": of, "tokens": 99} for when, of in looks.items()}
    written: dict[str, Any] = {
        "status": "finished",
        "mode": mode,
        "flow": "trainer",
        "base": "sample",
        "dataset": "sample",
        "device": {"type": "cpu", "name": "CPU", "threads": 1},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
        "versions": {"torch": "2.13.0"},
        "data": {"validation": {"fingerprint": "f00d", "block_size": 256}},
        "parameters": {"trainable": trainable, "total": 5_400_000},
        "memory": {
            "kind": "resident memory",
            "weights": 21_600_000,
            "gradients": 4 * trainable,
            "optimizer": 8 * trainable,
            "peak": 500_000_000 + 20 * trainable,
        },
        "speed": {"steps": 8, "tokens": 8000, "train_seconds": 4.0, "tokens_per_second": 2000.0},
        "evaluation": evaluation,
        "samples": {"before": "Once upon a time.", "after": f"Once upon a {mode}."},
        "arguments": {"max_steps": 8, "seed": seed, "prompt": "Once upon a"},
    }
    return written | changes


def write_run(folder: Path, mode: str = "lora", *, command: Sequence[str] = (), **changes: Any) -> Path:
    """A run folder with a log of nine evaluations, an adapter and a checkpoint; with ``command``, of slm-lab."""
    folder.mkdir(parents=True, exist_ok=True)
    written = record(mode, **changes)
    (folder / "run.json").write_text(json.dumps(written))
    last = written["evaluation"]["after"]["bits_per_byte"] if "after" in written["evaluation"] else 2.0
    lines = [{"step": step, "eval_bits_per_byte": 2.0 - (2.0 - last) * step / 8} for step in range(9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "adapter_model.safetensors").write_bytes(bytes(1000))
    checkpoint = folder / "checkpoint-8"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / "optimizer.pt").write_bytes(bytes(3000))
    if command:
        (folder / "lab.json").write_text(json.dumps({"argv": [*command]}))
    return folder


def read_mode(name: str, *folders: Path) -> Mode:
    """The figures of ``folders``, all of one mode."""
    found = [Outcome(read_run(at), curve(at), shipped_bytes(at), checkpoint_bytes(at)) for at in folders]
    return Mode.of(name, found)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    return write_run


@pytest.fixture(scope="session")
def make_record() -> Callable[..., dict[str, Any]]:
    return record


@pytest.fixture
def make_mode(tmp_path: Path) -> Callable[..., Mode]:
    """A mode by its name and what each seed came to; ``changes`` to the record of each."""

    def make(name: str, *bits: float, **changes: Any) -> Mode:
        runs = enumerate(bits or (1.2,))
        return read_mode(name, *(write_run(tmp_path / f"{name}-{at}", name, bits=of, **changes) for at, of in runs))

    return make


@pytest.fixture
def five(make_mode: Callable[..., Mode]) -> Comparison:
    """All modes, two seeds each."""
    ends = {"baseline": 1.1, "lora": 1.2, "qlora": 1.21, "butterfly": 1.3, "butterfly_block": 1.35}
    return Comparison(tuple(make_mode(name, bits, bits + 0.02) for name, bits in ends.items()))


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command line that must be refused: exit code 2 and one sentence, which is returned."""

    def run(*argv: object) -> str:
        assert main([str(word) for word in argv]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return run
