"""What slm-train's tests train, and how they run the command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Refused = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Tiny:
    """What the tests train: ``model`` a folder, ``texts`` and ``held_out`` .txt files, one story a document."""

    model: Path
    texts: Path
    held_out: Path
    cache: Path

    def flags(self, output_dir: Path | str, *more: str) -> list[str]:
        """A short run; later flags win."""
        fixed = {
            "model_path": self.model,
            "train_file": self.texts,
            "validation_file": self.held_out,
            "document_separator": r"\n\n\n",
            "output_dir": output_dir,
            "token_cache": self.cache,
            "block_size": 64,
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "logging_steps": 1,
            "threads": 1,
            "use_cpu": "true",
            "bf16": "false",
            "prompt": "",
        }
        given = {word.removeprefix("--").partition("=")[0] for word in more if word.startswith("--")}
        words = [word for name, value in fixed.items() if name not in given for word in (f"--{name}", str(value))]
        return [*words, *more]


def run_command(argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """``slm-train`` in a process of its own, as a user runs it."""
    command = [sys.executable, "-m", "slm_train.cli", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def read_record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


# Flags that make another run of one whose mode is lora, and what the refusal to go on with it names.
OTHER_RUNS = [(("--mode", "baseline"), "mode"), (("--max_train_samples", "9"), "data"), (("--lora_r", "3"), "adapter")]
