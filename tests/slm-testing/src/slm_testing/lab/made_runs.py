"""Run folders as slm-train writes them, made without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slm_lab.results.mode_results import ModeResults
from slm_lab.results.run_result import RunResult
from slm_lab.runs.reading import read_run

TRAINABLE = {"baseline": 5_000_000, "lora": 400_000, "qlora": 400_000, "butterfly": 40_000, "butterfly_block": 20_000}


def make_record(mode: str = "lora", *, bits: float = 1.2, seed: int = 42, **changes: Any) -> dict[str, Any]:
    """Make the content of a run.json.

    Args:
        bits: Bits per byte after training.
        changes: Values of the top level to replace.
    """
    trainable = TRAINABLE.get(mode, 1000)
    bits_per_byte = {"before": 2.0, "after": bits}
    record: dict[str, Any] = {
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
        "evaluation": {
            when: {"perplexity": 2 ** (3 * value), "bits_per_byte": value, "tokens": 99}
            for when, value in bits_per_byte.items()
        },
        "samples": {"before": "Once upon a time.", "after": f"Once upon a {mode}."},
        "arguments": {"max_steps": 8, "seed": seed, "prompt": "Once upon a"},
    }
    return record | changes


def write_run(folder: Path, mode: str = "lora", *, command: Sequence[str] = (), **changes: Any) -> Path:
    """Write a run folder with nine evaluations, an adapter of 1,000 bytes and a checkpoint of 3,000 bytes.

    Args:
        command: The words after ``slm-train``, as slm-lab records them; without it, slm-lab did not start the run.
        changes: As for ``make_record``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = make_record(mode, **changes)
    (folder / "run.json").write_text(json.dumps(record))
    last = record["evaluation"]["after"]["bits_per_byte"] if "after" in record["evaluation"] else 2.0
    lines = [{"step": step, "eval_bits_per_byte": 2.0 - (2.0 - last) * step / 8} for step in range(9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "adapter_model.safetensors").write_bytes(bytes(1000))
    checkpoint = folder / "checkpoint-8"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / "optimizer.pt").write_bytes(bytes(3000))
    if command:
        (folder / "lab.json").write_text(json.dumps({"argv": [*command]}))
    return folder


def read_mode_results(name: str, *folders: Path) -> ModeResults:
    """Read the results of ``folders``, all of one mode."""
    return ModeResults.from_results(name, [RunResult.read(read_run(folder), folder) for folder in folders])
